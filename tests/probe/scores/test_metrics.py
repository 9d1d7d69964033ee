"""Metrics of values and of retrieval agree with scikit-learn and NumPy."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from data_tools.errors import InputError
from fmrifm.probe.scores.bootstrap import score


def test_values_of_one_column_are_those_of_scikit_learn_and_numpy():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=80).astype(np.float32) + 1000
    predictions = targets + rng.normal(size=80).astype(np.float32)
    found = score(targets, predictions)
    assert found.keys() == {"r2", "pearson"}
    assert found["r2"]["value"] == pytest.approx(r2_score(targets, predictions), abs=1e-6)
    expected = np.corrcoef(targets, predictions)[0, 1]
    assert found["pearson"]["value"] == pytest.approx(expected, abs=1e-6)
    draws = rng.integers(80, size=(2000, 80))
    for name, metric in (("r2", r2_score), ("pearson", lambda t, p: np.corrcoef(t, p)[0, 1])):
        values = [metric(targets[i], predictions[i]) for i in draws]
        assert found[name]["std"] == pytest.approx(np.std(values), rel=0.12)


def test_values_of_several_columns_are_those_of_scikit_learn_and_numpy():
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(40, 300)) + rng.normal(size=300)
    predictions = targets + 2 * rng.normal(size=targets.shape)
    targets[:, 7] = 0.1  # constant: it has no r2
    subjects = np.repeat([f"s{i}" for i in range(8)], 5)
    found = score(targets, predictions, subjects=subjects)
    vary = np.arange(300) != 7
    expected = r2_score(targets[:, vary], predictions[:, vary])
    assert found["r2"]["value"] == pytest.approx(expected, abs=1e-9)
    rows = [np.corrcoef(t, p)[0, 1] for t, p in zip(targets, predictions, strict=True)]
    assert found["pearson"]["value"] == pytest.approx(np.mean(rows), abs=1e-9)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (targets, predictions)]
    cosine = (unit[0] * unit[1]).sum(1)
    assert found["cosine"]["value"] == pytest.approx(cosine.mean(), abs=1e-9)
    assert found["cosine"]["std"] == pytest.approx(cosine.std() / np.sqrt(40), rel=0.15)
    by_subject = cosine.reshape(8, 5).mean(1).std() / np.sqrt(8)
    assert found["cosine"]["subject_std"] == pytest.approx(by_subject, rel=0.15)


def test_what_has_no_value_is_left_out_or_zero():
    found = score(np.ones(5), np.arange(5.0))
    assert found == {}
    found = score(np.arange(5.0), np.full(5, 0.1))
    assert found["pearson"]["value"] == 0 and found["r2"]["value"] < 0
    targets = np.random.default_rng(0).normal(size=(20, 4))
    found = score(targets, np.zeros((20, 4)))
    assert {found[name]["value"] for name in ("pearson", "cosine", "top1", "top5")} == {0}
    # 0.1 differs from the mean of several 0.1 in the last digit.
    for n in range(6, 30):
        assert score(np.full(n, 0.1), np.arange(1.0 * n)) == {}
        assert score(np.arange(1.0 * n), np.full(n, 0.1))["pearson"]["value"] == 0
        rows = np.random.default_rng(n).normal(size=(4, n))
        assert score(rows, np.full((4, n), 0.1))["pearson"]["value"] == 0
    # One resample in nine draws one sample only, three times: it has no r2, not one of -1e16.
    for seed in range(10):
        found = score(*np.random.default_rng(seed).normal(size=(2, 3)))
        assert found["r2"]["std"] < 1e8
    with pytest.raises(InputError, match="1 of 20 samples are not finite"):
        score(targets, np.where(np.arange(80).reshape(20, 4) == 5, np.nan, 0))


def test_retrieval_is_among_different_targets(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 6)).astype(np.float32)
    shown = rng.integers(30, size=90)
    predictions = images[shown] + 0.8 * rng.normal(size=(90, 6)).astype(np.float32)
    monkeypatch.setattr("fmrifm.probe.scores.metrics._CELLS_AT_ONCE", 70)  # in blocks
    found = score(images[shown], predictions)
    kept = np.unique(shown)
    for top in (1, 5):
        hits = []
        for own, guess in zip(shown, predictions, strict=True):
            near = images[kept] @ guess / np.linalg.norm(images[kept], axis=1)
            hits.append(own in kept[np.argsort(-near)[:top]])
        assert found[f"top{top}"]["value"] == pytest.approx(np.mean(hits))
        assert found[f"top{top}"]["std"] > 0
    assert found["top1"]["value"] < found["top5"]["value"] < 1
