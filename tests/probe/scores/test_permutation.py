"""Permutation tests: what is exchanged, and how often chance does as well."""

from itertools import permutations, product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, r2_score

from data_tools.errors import InputError
from fmrifm.probe.scores import permutation
from fmrifm.probe.scores.permutation import exchange, permutation_test

CLASSES = np.array(["a", "b", "c"])
SUBJECTS = np.repeat([f"s{i:02}" for i in range(20)], 6)


def _traits(rng, values):
    """One value for each subject, at each of its samples."""
    return values[rng.permutation(np.arange(20) % len(values))].repeat(6, axis=0)


@pytest.mark.parametrize("kind", ["within", "across"])
def test_only_a_model_that_knows_something_is_significant(kind):
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = CLASSES[rng.integers(3, size=120)] if kind == "within" else _traits(rng, CLASSES)
        # Guesses are alike within a subject, as those of real models are.
        guesses = np.where(rng.random(120) < 0.9, _traits(rng, CLASSES), CLASSES[0])
        p.append(permutation_test(labels, guesses, CLASSES, SUBJECTS, n=200)["p"])
    assert sum(value > 0.05 for value in p) >= 17
    assert min(p) < 0.3 < 0.7 < max(p)  # spread out, not all large
    found = permutation_test(labels, labels, CLASSES, SUBJECTS)
    assert found["kind"] == kind and found["p"] == 1 / 1001
    assert 0.3 < found["null_mean"] < found["null_high"] < 0.6


def test_a_subject_that_is_recognised_by_itself_is_not_significant():
    # Traits of 4 subjects, 100 samples each, all right: one arrangement in 6 does as well.
    labels, subjects = np.repeat(["a", "a", "b", "b"], 100), np.repeat(list("pqrs"), 100)
    found = permutation_test(labels, labels, CLASSES[:2], subjects)
    assert found["kind"] == "across"
    assert found["p"] == pytest.approx(1 / 6, abs=0.04)


@pytest.mark.parametrize("metric, values", [
    ("accuracy", accuracy_score),
    ("balanced_accuracy", balanced_accuracy_score),
    ("f1_macro", lambda t, p: f1_score(t, p, average="macro")),
])  # fmt: skip
def test_the_null_is_that_of_all_arrangements(metric, values, monkeypatch):
    monkeypatch.setattr(permutation, "_CELLS_AT_ONCE", 100)
    guesses = np.array(list("abbacab"))
    # Samples of a subject do not lie side by side; subject r has one label and keeps it.
    subjects, labels = np.array(list("pqpqprr")), np.array(list("abbaccc"))
    p, q = np.array([0, 2, 4]), np.array([1, 3])
    scores = []
    for first, second in product(permutations(p), permutations(q)):
        exchanged = labels.copy()
        exchanged[p], exchanged[q] = labels[[*first]], labels[[*second]]
        scores.append(values(exchanged, guesses))
    found = permutation_test(labels, guesses, CLASSES, subjects, metric, n=4000)
    assert found["kind"] == "within"
    assert found["null_mean"] == pytest.approx(np.mean(scores), abs=0.01)
    as_good = np.mean(np.array(scores) >= values(labels, guesses) - 1e-9)
    assert found["p"] == pytest.approx(as_good, abs=0.03)


def test_traits_move_with_whole_subjects():
    guesses = np.array(list("abbacabb"))
    subjects, labels = np.array(list("pqpqprrs")), np.array(list("abababba"))
    labels[subjects == "p"], labels[subjects == "q"] = "a", "b"
    scores = []
    for some in permutations("abba"):  # of p, q, r, s
        exchanged = np.array([dict(zip("pqrs", some, strict=True))[who] for who in subjects])
        scores.append(balanced_accuracy_score(exchanged, guesses))
    found = permutation_test(labels, guesses, CLASSES, subjects, n=4000)
    assert found["kind"] == "across"
    assert found["null_mean"] == pytest.approx(np.mean(scores), abs=0.01)
    as_good = np.mean(np.array(scores) >= balanced_accuracy_score(labels, guesses) - 1e-9)
    assert found["p"] == pytest.approx(as_good, abs=0.03)


def test_what_changes_little_within_people_keeps_its_power():
    """One person with two labels, and numbers that differ from scan to scan."""
    rng, people = np.random.default_rng(0), np.repeat(np.arange(40), 2).astype(str)
    truth = CLASSES[np.arange(80) // 2 % 2]
    converts = truth.copy()
    converts[1] = CLASSES[1]
    found = permutation_test(converts, truth, CLASSES[:2], people)
    assert found["kind"] == "across" and found["p"] == 1 / 1001 and found["null_high"] < 0.65
    age = rng.uniform(20, 80, 40).repeat(2)
    age[1::2] += 1
    guesses = age + rng.normal(0, 3, 80)
    found = permutation_test(age, guesses, None, people, "r2", n=200)
    assert found["kind"] == "across" and found["p"] == 1 / 201
    found = permutation_test(age, guesses[rng.permutation(80)], None, people, "r2", n=200)
    assert found["p"] > 0.05
    # Single scans, and one person who has two.
    people = np.array([*map(str, range(39)), "0"])
    found = permutation_test(truth[:40], truth[:40], CLASSES[:2], people, n=200)
    assert found["p"] == 1 / 201


def test_families_of_several_people_keep_their_power():
    """Half of the variance lies between pairs that are not alike: to exchange within is weak."""
    families, kinds, p = np.repeat(np.arange(30), 2).astype(str), set(), ([], [])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        numbers = rng.integers(2, size=60)
        noise = rng.normal(size=30).repeat(2) + 0.5 * rng.normal(size=60)
        for effect, values in zip((0, 0.9), p, strict=True):
            guesses = CLASSES[(noise + effect * (2 * numbers - 1) > 0).astype(int)]
            found = permutation_test(CLASSES[numbers], guesses, CLASSES[:2], families, n=100)
            kinds.add(found["kind"])
            values.append(found["p"])
    assert "both" in kinds
    assert sum(value > 0.05 for value in p[0]) >= 17 and max(p[1]) < 0.05


@pytest.mark.parametrize("kind", ["across", "within", "both"])
def test_series_of_labels_move_as_a_whole(kind):
    rng, subjects = np.random.default_rng(0), np.array(list("pqqrrrqp"))
    labels = np.array([10, 20, 21, 30, 31, 32, 22, 11])
    some = exchange(labels, subjects, kind, 400, rng)
    wanted = {
        "across": {"p": {(10, 11), (20, 22), (30, 32)},
                   "q": {(10, 11, 11), (20, 21, 22), (30, 31, 32)}},
        "within": {"p": {(10, 11), (11, 10)}},
    }.get(kind, {})  # fmt: skip
    for who, series in wanted.items():
        assert {tuple(row) for row in some[:, subjects == who].tolist()} == series
    if kind == "both":  # all of one subject, in any order
        owners = some[:, subjects == "r"] // 10
        assert (owners == owners[:, :1]).all() and set(owners[:, 0]) == {1, 2, 3}
        found = {tuple(row) for row in some[:, subjects == "p"].tolist()}
        assert {(10, 11), (11, 10), (20, 22), (22, 20)} <= found


def test_labels_that_can_be_arranged_in_one_way_only_prove_nothing():
    labels = np.full(6, "a")
    found = permutation_test(labels, labels, CLASSES, np.array(list("ppqqrr")))
    about = {"metric": "balanced_accuracy", "kind": "across"}
    assert found == about | {"p": 1, "null_mean": 1, "null_high": 1}
    found = permutation_test(labels, labels, CLASSES, np.full(6, "p"))
    assert found["p"] == 1


@pytest.mark.parametrize("kind", ["within", "across"])
@pytest.mark.parametrize("metric, columns", [("r2", 1), ("r2", 3), ("cosine", 3)])
def test_values_are_tested_too(kind, metric, columns):
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        targets = rng.normal(size=(120, columns))
        if kind == "across":
            targets = _traits(rng, targets[:20])
        guesses = _traits(rng, rng.normal(size=(20, columns))) + rng.normal(size=targets.shape)
        found = permutation_test(targets, guesses, None, SUBJECTS, metric, n=100)
        p.append(found["p"])
    assert found["kind"] == kind
    assert sum(value > 0.05 for value in p) >= 17
    assert min(p) < 0.35 < 0.65 < max(p)
    found = permutation_test(targets, targets + 0.1 * guesses, None, SUBJECTS, metric, n=200)
    assert found["p"] == 1 / 201 and found["null_high"] < 0.9


def test_the_null_of_values_is_that_of_all_arrangements():
    rng = np.random.default_rng(0)
    targets, guesses = rng.normal(size=(2, 5, 2))
    scores = [r2_score(targets[[*order]], guesses) for order in permutations(range(5))]
    found = permutation_test(targets, guesses, None, np.full(5, "one"), "r2", n=4000)
    assert found["null_mean"] == pytest.approx(np.mean(scores), abs=0.03)
    assert found["null_high"] == pytest.approx(np.percentile(scores, 95), abs=0.05)
    # Of one sample a subject whole subjects are exchanged, which is the same.
    other = permutation_test(targets, guesses, None, np.arange(5).astype(str), "r2", n=4000)
    assert other["kind"] == "across"
    assert other["null_mean"] == pytest.approx(np.mean(scores), abs=0.03)


def test_what_cannot_be_tested_is_said():
    one, two = np.ones(4), np.ones((4, 2))
    who = np.array(list("ppqq"))
    with pytest.raises(InputError, match="choose of accuracy"):
        permutation_test(one, one, np.ones(1), who, metric="auroc")
    with pytest.raises(InputError, match="choose of r2, cosine"):
        permutation_test(two, two, None, who, metric="pearson")
    with pytest.raises(InputError, match="single values"):
        permutation_test(one, one, None, who, metric="cosine")
    with pytest.raises(InputError, match="all the same"):
        permutation_test(one, one, None, who, "r2")
    with pytest.raises(InputError, match="not finite"):
        permutation_test(np.arange(4.0), np.full(4, np.nan), None, who, "r2")
