"""Scores with their uncertainty.

Letters: R resamples, C samples, K classes. Everything is computed for all resamples at once; a test
holds each metric against scikit-learn.
"""

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 500


def score(
    labels: np.ndarray,
    predictions: np.ndarray,
    scores_CxK: np.ndarray,
    classes: np.ndarray,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Scores of a classifier on a whole split.

    Args:
      labels, predictions: (C,) of the classes.
      scores_CxK: probabilities, columns in the order of `classes`.
      classes: (K,) sorted.
      seed: of the resamples.

    Returns:
      {metric: {"value", "std", "low", "high"}} for accuracy, balanced_accuracy, f1_macro (the
      means over the classes of the split) and auroc (one against the rest, mean over classes): the
      value, and the standard deviation and 95 % interval over stratified bootstrap resamples.
      auroc is left out where a class is missing from the split.
    """
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(labels == label) for label in classes if (labels == label).any()]
    resampled = [rows[rng.integers(len(rows), size=(RESAMPLES, len(rows)))] for rows in strata]
    # The first "resample" is the split itself.
    index_RxC = np.concatenate([np.concatenate(strata)[None], np.concatenate(resampled, 1)])
    truth_RxC = np.searchsorted(classes, labels)[index_RxC]
    guess_RxC = np.searchsorted(classes, predictions)[index_RxC]
    metrics = confusion_metrics(truth_RxC, guess_RxC, len(classes))
    if len(strata) == len(classes):
        metrics["auroc"] = auroc(truth_RxC, scores_CxK[index_RxC])
    results = {}
    for name, values in metrics.items():
        low, high = np.percentile(values[1:], [2.5, 97.5])
        spread = {"std": values[1:].std(), "low": low, "high": high}
        results[name] = {k: float(v) for k, v in {"value": values[0], **spread}.items()}
    return results


def confusion_metrics(truth_RxC: np.ndarray, guess_RxC: np.ndarray, k: int) -> dict:
    """accuracy, balanced_accuracy and f1_macro, each (R,)."""
    cell = np.arange(len(truth_RxC))[:, None] * k * k + truth_RxC * k + guess_RxC
    confusion = np.bincount(cell.ravel(), minlength=len(truth_RxC) * k * k).reshape(-1, k, k)
    right = np.einsum("rkk->rk", confusion)
    present, guessed = confusion.sum(2), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        recall = np.where(present > 0, right / present, np.nan)
        f1 = np.where(present + guessed > 0, 2 * right / (present + guessed), np.nan)
    return {
        "accuracy": right.sum(1) / truth_RxC.shape[1],
        "balanced_accuracy": np.nanmean(recall, 1),
        "f1_macro": np.nanmean(f1, 1),
    }


def auroc(truth_RxC: np.ndarray, scores_RxCxK: np.ndarray) -> np.ndarray:
    """(R,) area under the ROC curve, by ranks (Mann-Whitney), mean over classes."""
    rank = rankdata(scores_RxCxK, axis=1)
    positive = truth_RxC[:, :, None] == np.arange(scores_RxCxK.shape[2])
    n_positive = positive.sum(1)
    n_negative = truth_RxC.shape[1] - n_positive
    u = (rank * positive).sum(1) - n_positive * (n_positive + 1) / 2
    return (u / (n_positive * n_negative)).mean(1)
