"""Scores of a cohort: intervals that account for shared training data, and where spread is from."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from fmrifm.probe.cohort.folds import make_folds
from fmrifm.probe.cohort.scores import (
    Repeats,
    Truth,
    by_site,
    compare_rows,
    fold_spread,
    score_repeats,
    split_variance,
    with_motion,
)
from fmrifm.probe.cohort.verdict import answer

SUBJECTS = np.array([f"toy/{g:02d}" for g in range(40)])
LABELS = np.arange(40) % 2
TRUTH = Truth(LABELS, np.array(["control", "patient"]), SUBJECTS)
FOLDS = [make_folds("kfold", LABELS, SUBJECTS, seed=r) for r in range(4)]


def guesses(share_right, n_seeds=1, seed=0, folds=FOLDS):
    """Predictions that are right in a share of cases."""
    rng = np.random.default_rng(seed)
    right = rng.random((n_seeds, len(folds), 40)) < share_right
    p = np.where(right == LABELS, 0.8, 0.2)
    return Repeats(np.stack([1 - p, p], -1).astype(np.float32), folds)


def test_corrected_variance_by_hand():
    scores, shares = np.array([0.6, 0.8, 0.7, 0.9]), np.full(4, 0.25)
    std, reach = fold_spread(scores, shares)
    assert std == pytest.approx(np.sqrt((1 / 4 + 0.25) * np.var(scores, ddof=1)))
    assert reach == pytest.approx(std * stats.t.ppf(0.975, 3))
    assert fold_spread(np.array([0.6, np.nan]), shares) is None
    assert fold_spread(np.array([0.6]), shares) is None


def test_value_is_that_of_all_samples_and_its_interval_is_of_folds():
    repeats = guesses(0.75, n_seeds=2)
    found = score_repeats(TRUTH, repeats, 0)
    right = (repeats.values.argmax(-1) == LABELS).mean(-1)
    assert found["accuracy"]["value"] == pytest.approx(right.mean())
    some = found["balanced_accuracy"]
    assert some["interval"] == "corrected" and some["low"] < some["value"] < some["high"] <= 1
    scores = [
        np.mean([(v[r].argmax(-1) == LABELS)[fold.test].mean() for v in repeats.values])
        for r, folds in enumerate(FOLDS)
        for fold in folds
    ]
    assert some["std"] == pytest.approx(fold_spread(np.array(scores), np.full(20, 0.25))[0])
    # Naive errors of the mean would be far smaller.
    assert some["std"] > 2 * np.std(scores) / np.sqrt(20)


def test_corrected_intervals_cover_what_naive_ones_miss():
    """Truly null features: the interval holds 50 % about as often as it says."""
    from fmrifm.probe.cohort.cross_fit import cross_fit

    inside = 0
    for seed in range(20):
        x_SxD = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
        folds = [make_folds("kfold", LABELS, SUBJECTS, seed=r) for r in range(2)]
        truth = dataclasses.replace(TRUTH, n_inner=2)
        values = np.stack([cross_fit(x_SxD, truth, some)[0] for some in folds])
        some = score_repeats(TRUTH, Repeats(values[None], folds), 0)["balanced_accuracy"]
        inside += some["low"] <= 0.5 <= some["high"]
    assert inside >= 17


def test_one_left_out_at_a_time_is_resampled_by_people():
    folds = [make_folds("subject", LABELS, SUBJECTS)]
    found = score_repeats(TRUTH, guesses(0.75, folds=folds), 0)["balanced_accuracy"]
    assert found["interval"] == "subjects" and found["low"] < found["value"] < found["high"]
    versus = compare_rows(TRUTH, guesses(0.95, folds=folds), guesses(0.5, 1, 3, folds), 0)
    assert versus["difference"] > 0.2 and versus["p"] < 0.05


def test_rows_are_compared_fold_by_fold():
    better, worse = guesses(0.9), guesses(0.55, seed=1)
    found = compare_rows(TRUTH, better, worse, 0)
    assert found["difference"] > 0.2 and found["low"] > 0 and found["p"] < 0.05
    assert compare_rows(TRUTH, worse, better, 0)["difference"] == -found["difference"]
    same = compare_rows(TRUTH, better, better, 0)
    assert same["difference"] == 0 and same["p"] == 1


def test_spread_is_told_apart_by_its_source():
    right = np.zeros((3, 4, 40), bool)
    for n in range(3):
        right[n, :, : 20 + 4 * n] = True  # differs by seed only
    p = np.where(right == LABELS, 0.8, 0.2)
    repeats = Repeats(np.stack([1 - p, p], -1), FOLDS)
    told = split_variance(TRUTH, repeats, score_repeats(TRUTH, repeats, 0))
    assert told["n"] == 3 and told["seed_std"] == pytest.approx(0.1)
    assert told["partition_std"] == 0 and told["sampling_std"] > 0
    swapped = Repeats(repeats.values.transpose(1, 0, 2, 3), FOLDS[:3])
    told = split_variance(TRUTH, swapped, score_repeats(TRUTH, swapped, 0))
    assert told["seed_std"] == 0 and told["partition_std"] == pytest.approx(0.1)
    one = Repeats(repeats.values[:1, :1], FOLDS[:1])
    told = split_variance(TRUTH, one, score_repeats(TRUTH, one, 0))
    assert told["seed_std"] is None and told["partition_std"] is None


def test_sites_and_motion():
    values = np.tile([[0.2, 0.8]], (40, 1)).astype(np.float32)
    values[LABELS == 0] = [0.8, 0.2]
    values[:20] = values[:20, ::-1]  # wrong at the first site
    sites = np.where(np.arange(40) < 20, "a", "b")
    sites[-2:] = "c"
    labels = LABELS.copy()
    labels[-2:] = 1
    truth = Truth(labels, TRUTH.classes, SUBJECTS)
    found = by_site(truth, Repeats(values[None, None], FOLDS[:1]), sites)
    assert found["a"] == {"n": 20, "n_subjects": 20, "value": 0}
    assert found["b"]["value"] == 1 and found["c"]["value"] is None  # one class only
    motion = values[:, 1] + np.random.default_rng(0).normal(size=40) / 20
    told = with_motion(TRUTH, values, motion)
    assert told["rho"] > 0.7 and told["p"] < 0.001 and told["class"] == "patient"
    motion[3] = np.nan  # of one it is not known
    assert with_motion(TRUTH, values, motion)["rho"] > 0.7
    assert with_motion(TRUTH, values, np.full(40, np.nan)) is None
    # Of families of two, whose labels differ, people are what counts.
    families = dataclasses.replace(TRUTH, subjects=SUBJECTS[np.arange(40) // 2])
    assert with_motion(families, values, motion, SUBJECTS) == with_motion(TRUTH, values, motion)
    # The strongest of five classes is no surprise at p = 0.05.
    rng, p = np.random.default_rng(0), []
    truth = dataclasses.replace(TRUTH, labels=np.arange(40) % 5, classes=np.array(list("abcde")))
    for _ in range(60):
        told = with_motion(truth, rng.dirichlet(np.ones(5), 40), rng.normal(size=40))
        p.append(told["p"])
    assert np.mean(np.array(p) < 0.05) < 0.1
    # Motion that differs between the classes only: nothing is left within them.
    apart = values.copy()
    apart[:20] = apart[:20, ::-1]
    told = with_motion(TRUTH, apart, LABELS + np.random.default_rng(1).normal(size=40) / 9)
    assert told["rho"] > 0.7 and told["within_p"] > 0.05


def test_of_few_people_intervals_are_wide_or_there_is_none():
    people = np.repeat(SUBJECTS[:4], 10)
    truth = dataclasses.replace(TRUTH, subjects=people)
    folds = [make_folds("kfold", LABELS, people, n_folds=2, seed=r) for r in range(5)]
    right = np.eye(2, dtype=np.float32)[LABELS]
    perfect = Repeats(np.tile(right, (1, 5, 1, 1)), folds)
    found = score_repeats(truth, perfect, 0)["balanced_accuracy"]
    assert found["value"] == 1 and found["interval"] == "few"
    assert found["low"] is None and found["high"] is None
    values = perfect.values.copy()
    values[:, :, :4] = values[:, :, :4, ::-1]
    found = score_repeats(truth, Repeats(values, folds), 0)["accuracy"]
    assert found["value"] == pytest.approx(0.9) and found["low"] < 0.65 and found["high"] > 0.99
    versus = compare_rows(truth, perfect, Repeats(values, folds), 0)
    assert versus["low"] < 0 < versus["difference"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "low, high, verdict, begin",
    [(0.35, 0.62, "chance", "No. "), (0.3, 0.8, "unclear", "No evidence either way. "),
     (None, None, "unclear", "No evidence either way. ")],
)  # fmt: skip
def test_no_and_no_evidence_are_told_apart(low, high, verdict, begin):
    metrics = {"balanced_accuracy": {"value": 0.5, "low": low, "high": high}}
    split = {"metrics": metrics, "chance": {"p": 0.4}}
    row = {"representation": "cls", "head": "logistic", "splits": {"kfold": split}}
    config = {"confounds": {"remove": "none"}}
    results = {"results": [row], "classes": ["a", "b"], "metric": "balanced_accuracy",
               "target": "run:x", "splits": {"scheme": "kfold"}, "config": config}  # fmt: skip
    found = answer(results)
    assert found["verdict"] == verdict and found["text"].startswith(begin)
    assert ("no interval" in found["text"]) == (low is None) and "70%" in found["text"]
