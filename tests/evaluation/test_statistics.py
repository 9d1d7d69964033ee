"""Scores agree with scikit-learn, and intervals cover what they should."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from fmrifm.evaluation.statistics import score


@pytest.mark.parametrize("k", [2, 4])
def test_values_are_those_of_scikit_learn(k):
    rng = np.random.default_rng(k)
    classes = np.array(["a", "b", "c", "d"][:k])
    labels = classes[rng.integers(k, size=60)]
    scores = rng.dirichlet(np.ones(k), size=60).round(2)  # with ties
    scores /= scores.sum(1, keepdims=True)
    predictions = classes[scores.argmax(1)]
    found = score(labels, predictions, scores, classes)
    expected = {
        "accuracy": accuracy_score(labels, predictions),
        "balanced_accuracy": balanced_accuracy_score(labels, predictions),
        "f1_macro": f1_score(labels, predictions, average="macro"),
        "auroc": roc_auc_score(labels == "b", scores[:, 1])
        if k == 2
        else roc_auc_score(labels, scores, multi_class="ovr"),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert found[name]["low"] <= value <= found[name]["high"]
        assert found[name]["std"] > 0
    other = score(labels, predictions, scores, classes, seed=1)
    assert other["accuracy"]["value"] == found["accuracy"]["value"]
    assert other["auroc"]["std"] != found["auroc"]["std"]


def test_a_class_missing_from_the_split_is_handled():
    labels = np.array(["a", "a", "b"])
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    found = score(labels, np.array(["a", "c", "b"]), scores, np.array(["a", "b", "c"]))
    assert "auroc" not in found
    assert found["balanced_accuracy"]["value"] == 0.75
