"""Scores agree with scikit-learn, and intervals cover what they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
)

from data_tools.errors import InputError
from fmrifm.probe.scores import bootstrap as statistics
from fmrifm.probe.scores.bootstrap import compare_paired, describe_errors, score
from fmrifm.probe.scores.metrics import classification

CLASSES = np.array(["a", "b", "c", "d"])


def _guesses(n: int, k: int, seed: int):
    """Labels, predictions that are often right, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    labels = CLASSES[np.r_[0:k, rng.integers(k, size=n - k)]]
    scores = rng.dirichlet(np.ones(k), size=n) + 0.4 * (labels[:, None] == CLASSES[:k])
    scores = scores.round(1)
    scores /= scores.sum(1, keepdims=True)
    return labels, CLASSES[scores.argmax(1)], scores


@pytest.mark.parametrize("k", [2, 4])
def test_values_are_those_of_scikit_learn(k):
    labels, predictions, scores = _guesses(60, k, seed=k)
    found = score(labels, predictions, scores, CLASSES[:k])
    expected = {
        "accuracy": accuracy_score(labels, predictions),
        "balanced_accuracy": balanced_accuracy_score(labels, predictions),
        "f1_macro": f1_score(labels, predictions, average="macro"),
        "auroc": roc_auc_score(labels == "b", scores[:, 1])
        if k == 2
        else roc_auc_score(labels, scores, multi_class="ovr"),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].keys() == {"value", "std", "low", "high"}
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert found[name]["low"] <= value <= found[name]["high"]
        assert found[name]["std"] > 0
    other = score(labels, predictions, scores, CLASSES[:k], seed=1)
    assert other["accuracy"]["value"] == found["accuracy"]["value"]
    assert other["auroc"]["std"] != found["auroc"]["std"]


def test_a_class_missing_from_the_split_is_handled():
    labels = np.array(["a", "a", "b"])
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    found = score(labels, np.array(["a", "c", "b"]), scores, np.array(["a", "b", "c"]))
    assert "auroc" not in found
    assert found["balanced_accuracy"]["value"] == 0.75
    assert found["f1_macro"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_classes_keep_the_order_they_are_given_in():
    labels, predictions, scores = _guesses(40, 3, seed=0)
    found = score(labels, predictions, scores, CLASSES[:3])
    order = [2, 0, 1]
    other = score(labels, predictions, scores[:, order], CLASSES[:3][order])
    for name, result in found.items():
        assert other[name]["value"] == pytest.approx(result["value"], abs=1e-12)
    with pytest.raises(InputError, match="Class 'c' is none"):
        score(labels, predictions, scores[:, :2], CLASSES[:2])


def test_intervals_by_class_and_by_subject_are_those_of_resampled_samples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 4000)
    labels, predictions, scores = _guesses(40, 2, seed=3)
    subjects = np.repeat([f"s{i}" for i in range(8)], 5)
    found = score(labels, predictions, scores, CLASSES[:2], 0, subjects)
    rng = np.random.default_rng(0)
    by_class = [np.flatnonzero(labels == name) for name in "ab"]
    by_subject = np.arange(40).reshape(8, 5)
    draws = {
        "": [
            np.concatenate([rng.choice(rows, len(rows)) for rows in by_class]) for _ in range(900)
        ],
        "subject_": [by_subject[rng.integers(8, size=8)].ravel() for _ in range(900)],
    }
    for prefix, resamples in draws.items():
        expected = {
            "f1_macro": [f1_score(labels[i], predictions[i], average="macro") for i in resamples],
            "auroc": [roc_auc_score(labels[i] == "b", scores[i, 1]) for i in resamples],
        }
        for name, values in expected.items():
            assert found[name][prefix + "std"] == pytest.approx(np.std(values), rel=0.08)
            low, high = np.percentile(values, [2.5, 97.5])
            assert found[name][prefix + "low"] == pytest.approx(low, abs=0.03)
            assert found[name][prefix + "high"] == pytest.approx(high, abs=0.03)


def test_copies_of_a_subjects_samples_narrow_only_the_interval_that_ignores_subjects():
    labels, predictions, scores = _guesses(60, 2, seed=1)
    subjects = np.repeat([f"s{i}" for i in range(12)], 5)
    once = score(labels, predictions, scores, CLASSES[:2], 0, subjects)
    ten = np.repeat(np.arange(60), 10)
    often = score(labels[ten], predictions[ten], scores[ten], CLASSES[:2], 0, subjects[ten])
    for name, result in once.items():
        assert often[name]["value"] == pytest.approx(result["value"])
        assert often[name]["std"] == pytest.approx(result["std"] / np.sqrt(10), rel=0.15)
        for key in ("subject_std", "subject_low", "subject_high"):
            assert often[name][key] == pytest.approx(result[key])


def test_subjects_that_tell_nothing_get_no_interval():
    labels, predictions, scores = _guesses(12, 2, seed=0)
    for subjects in (None, np.full(12, "one"), np.arange(12).astype(str)):
        found = score(labels, predictions, scores, CLASSES[:2], 0, subjects)
        assert not any(key.startswith("subject") for key in found["accuracy"])


def test_a_class_of_one_subject_is_left_out_of_resamples_without_that_subject():
    # All are recognised, so every mean over the classes of a resample is 1.
    labels = np.repeat(list("ababababc"), 4)
    subjects = np.repeat(list("ppqqssttr"), 4)
    scores = np.eye(3)[np.searchsorted(CLASSES[:3], labels)]
    found = score(labels, labels, scores, CLASSES[:3], 0, subjects)
    for name in ("balanced_accuracy", "f1_macro", "auroc"):
        assert found[name]["subject_low"] == found[name]["value"] == 1
    # Where p is taken for c and r is not drawn, a and b have half their samples right.
    labels, subjects = (x[~np.isin(subjects, ["s", "t"])] for x in (labels, subjects))
    truth = np.searchsorted(CLASSES, labels)
    guess = np.where(subjects == "p", 2, truth)
    counts = np.stack([subjects != "r", subjects != ""], axis=1).astype(np.int32)
    found = classification(truth, guess, 3)(counts)
    # c, which is guessed, has an F1 of 0.5 where it is there.
    assert found["f1_macro"] == pytest.approx([2 / 3, (2 / 3 + 2 / 3 + 1 / 2) / 3])
    assert found["balanced_accuracy"] == pytest.approx([1 / 2, 2 / 3])
    # As many subjects as classes: next to no resample has them all.
    names = np.array([f"{i:02}" for i in range(30)])
    found = score(names.repeat(2), names.repeat(2), np.eye(30).repeat(2, 0), names, 0,
                  names.repeat(2))  # fmt: skip
    assert "subject_std" not in found["auroc"] and "subject_std" in found["accuracy"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_interval_holds_the_value_and_the_order_of_samples_does_not_matter(data):
    n = data.draw(st.integers(2, 30))
    k = data.draw(st.integers(2, 4))
    draw = st.lists(st.integers(0, k - 1), min_size=n, max_size=n).map(np.array)
    labels, predictions = data.draw(draw), data.draw(draw)
    people = st.integers(0, data.draw(st.sampled_from([0, 2, 9])))
    subjects = np.array(data.draw(st.lists(people, min_size=n, max_size=n))).astype(str)
    scores = np.random.default_rng(n).random((n, k)).round(1)
    found = score(labels, predictions, scores, np.arange(k), 0, subjects)
    for name, result in found.items():
        if result["low"] is None:  # of few subjects
            assert len(set(subjects)) < 5 and "subject_low" not in result
            continue
        for prefix in {"", "subject_"} if "subject_low" in result else {""}:
            assert 0 <= result[prefix + "low"] <= result[prefix + "high"] <= 1 + 1e-12
            assert result[prefix + "std"] >= 0
        if name in ("accuracy", "balanced_accuracy"):
            assert result["low"] - 1e-12 <= result["value"] <= result["high"] + 1e-12
    i = np.array(data.draw(st.permutations(range(n))))
    other = score(labels[i], predictions[i], scores[i], np.arange(k), 0, subjects[i])
    assert other.keys() == found.keys()
    for name, result in found.items():
        assert other[name]["value"] == pytest.approx(result["value"], abs=1e-12)
        # Which subjects are drawn does not depend on the order of their samples.
        for key in {"subject_std", "subject_low", "subject_high"} & result.keys():
            assert other[name][key] == pytest.approx(result[key], abs=1e-12)


def test_blocks_of_resamples_change_nothing_by_subject(monkeypatch):
    labels, predictions, scores = _guesses(60, 3, seed=5)
    subjects = np.repeat([f"s{i}" for i in range(12)], 5)
    whole = score(labels, predictions, scores, CLASSES[:3], 0, subjects)
    monkeypatch.setattr(statistics, "_CELLS_AT_ONCE", 60 * 7)
    blocks = score(labels, predictions, scores, CLASSES[:3], 0, subjects)
    for name, result in whole.items():
        assert blocks[name]["value"] == result["value"]
        assert blocks[name]["std"] == pytest.approx(result["std"], rel=0.2)
        assert blocks[name]["subject_std"] == pytest.approx(result["subject_std"], rel=0.2)


def test_errors_are_told_class_by_class():
    labels, predictions, _ = _guesses(50, 3, seed=2)
    found = describe_errors(labels, predictions, CLASSES)
    assert found["confusion"] == confusion_matrix(labels, predictions, labels=CLASSES).tolist()
    recall = recall_score(labels, predictions, labels=CLASSES[:3], average=None)
    assert found["recall"] == {**dict(zip("abc", recall.tolist(), strict=True)), "d": None}


def test_the_better_model_is_found_where_samples_tell():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    wrong = (labels + 1) % 3
    better, worse = (np.where(rng.random(300) < p, labels, wrong) for p in (0.8, 0.6))
    for metric in ("accuracy", "balanced_accuracy", "f1_macro"):
        found = compare_paired(labels, better, worse, metric=metric)
        other = compare_paired(labels, worse, better, metric=metric)
        assert found["low"] > 0.05 and found["p"] < 0.01
        assert found["difference"] == pytest.approx(-other["difference"])
        assert found["p"] == other["p"] and found["low"] == pytest.approx(-other["high"])
    expected = balanced_accuracy_score(labels, better) - balanced_accuracy_score(labels, worse)
    found = compare_paired(labels, better, worse, metric="balanced_accuracy")
    assert found["difference"] == pytest.approx(expected)
    assert compare_paired(labels, labels, wrong)["p"] == 2 / 2001  # the least there is
    same = compare_paired(labels, better, better)
    assert same == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_pairing_narrows_the_interval_and_subjects_widen_it():
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=400).astype(str)
    a = np.where(rng.random(400) < 0.7, labels, "9")
    # b differs from a in every sample of one subject in ten only.
    subjects = np.repeat(np.arange(10), 40).astype(str)
    b = np.where(subjects == "3", "9", a)
    samples, clustered = (compare_paired(labels, a, b, who) for who in (None, subjects))
    alone = score(labels, a, np.zeros((400, 3)), np.array(["0", "1", "9"]))["accuracy"]
    assert samples["high"] - samples["low"] < alone["high"] - alone["low"]
    assert samples["p"] < 0.01
    assert clustered["difference"] == samples["difference"]
    assert clustered["low"] == 0 and clustered["p"] > 0.3
    assert compare_paired(labels, a, b, np.full(400, "one")) == samples


def test_values_are_compared_too():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(100, 5))
    better, worse = (targets + s * rng.normal(size=(100, 5)) for s in (0.5, 0.9))
    for metric in ("r2", "pearson", "cosine"):
        a, b = (score(targets, x)[metric]["value"] for x in (better, worse))
        found = compare_paired(targets, better, worse, metric=metric)
        assert found["difference"] == pytest.approx(a - b)
        assert 0 < found["low"] < found["difference"] < found["high"] and found["p"] < 0.01
    found = compare_paired(targets[:, 0], better[:, 0], better[::-1, 0], metric="r2")
    assert found["low"] > 0.5
    for labels, metric, words in (
        (targets[:, 0], "cosine", "choose r2"),
        (targets, "auroc", "choose of accuracy"),
        (np.ones((100, 5)), "r2", "not defined"),
    ):
        with pytest.raises(InputError, match=words):
            guess = better if labels.ndim == 2 else better[:, 0]
            compare_paired(labels, guess, guess, metric=metric)


def test_equal_models_differ_by_chance_as_often_as_they_should():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    p = []
    for _ in range(20):
        a, b = (np.where(rng.random(200) < 0.7, labels, 1 - labels) for _ in range(2))
        p.append(compare_paired(labels, a, b)["p"])
    assert sum(value > 0.05 for value in p) >= 17 and min(p) < 0.5


def test_two_subjects_that_agree_prove_nothing():
    rng = np.random.default_rng(0)
    labels = np.tile(["a", "b"], 20)
    wrong, subjects = np.roll(labels, 1), np.repeat(["p", "q"], 20)
    assert compare_paired(labels, labels, wrong, subjects)["p"] == 0.5
    many = np.repeat([f"{i}" for i in range(20)], 2)
    assert compare_paired(labels, labels, wrong, many)["p"] == 2 / 2001
    # One of them alone has no r2.
    ages = np.repeat([20.0, 30], 20)
    found = score(ages, ages + rng.normal(size=40), subjects=subjects)
    assert found["r2"]["low"] is None and "subject_low" not in found["r2"]


def test_intervals_of_few_subjects_are_those_of_t():
    labels, subjects = np.tile(["a", "b"], 12), np.repeat(list("pqr"), 8)
    wrong = np.isin(np.arange(24), (0, 8, 9, 10))  # one of p, three of q
    guesses = np.where(wrong, "c", labels)
    each = np.array([7, 5, 8]) / 8
    reach = stats.t.ppf(0.975, 2) * each.std(ddof=1) / np.sqrt(3)
    found = score(labels, guesses, None, CLASSES, 0, subjects)["accuracy"]
    assert found["low"] == found["subject_low"] == pytest.approx(each.mean() - reach)
    assert found["high"] == 1 < each.mean() + reach
    found = compare_paired(labels, labels, guesses, subjects)
    assert found["low"] == pytest.approx(1 - each.mean() - reach) and found["low"] < 0
    # Of equal subjects, and of one, nothing is known of others; nor do single samples change that.
    some = labels[:4]
    for people in (subjects, np.full(24, "p"), None):
        metrics = score(labels, labels, None, CLASSES, 0, people)
        assert (metrics["accuracy"]["low"] is None) == (people is not None)
    assert score(some, some, None, CLASSES, 0, np.array(list("pqrs")))["accuracy"]["high"] is None
    assert compare_paired(some, some, some, np.array(list("pqrs")))["low"] is None
    ages = np.arange(4.0)
    found = score(ages, ages[[0, 1, 3, 2]], subjects=np.array(list("pqrs")))["r2"]
    assert found["low"] < 0 < found["high"] == 1
