"""Metrics of samples that count several times, as those of a bootstrap resample do.

A resample is a column of counts: how often each sample is in it. So a metric of hundreds of
resamples is a few sums, and no sample is ever copied.

Letters: S samples, R resamples, K classes, E columns of a regression, U different targets.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from scipy.sparse import csr_array

from data_tools.errors import InputError

CLASSIFICATION = ("accuracy", "balanced_accuracy", "f1_macro")
REGRESSION = ("r2", "pearson", "cosine")

# From counts (S, R) to the values (R,) of each metric; NaN where a metric is not defined.
Measure = Callable[[np.ndarray], dict[str, np.ndarray]]

# Variation below this share of the squares is rounding: the values are all the same.
_ROUNDING = 1e-10
_COLUMNS_AT_ONCE = 256
_CELLS_AT_ONCE = 4_000_000


def class_numbers(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(S,) int: the places of values among the classes, which may be in any order."""
    order = np.argsort(classes)
    place = np.searchsorted(classes, values, sorter=order).clip(max=len(classes) - 1)
    numbers = order[place]
    if (strange := classes[numbers] != values).any():
        raise InputError(
            f"Class '{values[strange][0]}' is none of the {len(classes)} that are known: filter it."
        )
    return numbers


def check_finite(predictions: np.ndarray) -> None:
    """Raises InputError where values or probabilities are not finite."""
    if not np.isfinite(predictions).all():
        bad = (~np.isfinite(predictions)).reshape(len(predictions), -1).any(1).sum()
        raise InputError(
            f"Predictions of {bad} of {len(predictions)} samples are not finite: look for NaN in "
            "the features, or train the head with a lower learning rate."
        )


def classification(
    truth_S: np.ndarray, guess_S: np.ndarray, k: int, scores_SxK: np.ndarray | None = None
) -> Measure:
    """accuracy, balanced_accuracy, f1_macro and, with scores, auroc of numbered classes."""
    places = np.concatenate([truth_S, k + guess_S, (2 * k + truth_S)[truth_S == guess_S]])
    rows = np.arange(len(truth_S))
    rows = np.concatenate([rows, rows, rows[truth_S == guess_S]])
    of_class = csr_array((np.ones(len(rows), np.int32), (places, rows)), (3 * k, len(truth_S)))
    in_split = np.bincount(truth_S, minlength=k) > 0

    def measure(counts_SxR: np.ndarray) -> dict[str, np.ndarray]:
        present, guessed, right = np.split(of_class @ counts_SxR, 3)
        found = macro_metrics(right, present, guessed, in_split)
        return found if scores_SxK is None else found | {"auroc": area(counts_SxR)}

    if scores_SxK is not None:
        check_finite(scores_SxK)
        area = _auroc(truth_S, scores_SxK)
    return measure


def macro_metrics(
    right_KxR: np.ndarray, present_KxR: np.ndarray, guessed_KxR: np.ndarray, in_split: np.ndarray
) -> dict[str, np.ndarray]:
    """accuracy, and the means over classes of recall and F1, each (R,).

    A class of the split that a resample lacks is left out of both means. One that the split lacks
    has an F1 of 0 where it is guessed, as in scikit-learn.

    Args:
      right_KxR, present_KxR, guessed_KxR: how many samples are of a class and recognised, are of
        it, and are taken for it; the last two may be (K, 1).
      in_split: (K,) bool, whether any sample of the whole split is of it.
    """
    with np.errstate(invalid="ignore"):
        recall = np.where(present_KxR > 0, right_KxR / present_KxR, np.nan)
        f1 = 2 * right_KxR / (present_KxR + guessed_KxR)
    has_f1 = (present_KxR > 0) | (guessed_KxR > 0) & ~in_split[:, None]
    return {
        "accuracy": right_KxR.sum(0) / present_KxR.sum(0),
        "balanced_accuracy": np.nanmean(recall, 0),
        "f1_macro": np.nanmean(np.where(has_f1, f1, np.nan), 0),
    }


def macro_scores(truth_NxS: np.ndarray, guess_NxS: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """`macro_metrics` (N,) of N labellings or N sets of guesses; the other is (1, S) for all."""
    right_NxS = truth_NxS == guess_NxS

    def count(class_NxS: np.ndarray, counted: np.ndarray | slice) -> np.ndarray:
        cells = (class_NxS + k * np.arange(len(class_NxS))[:, None])[counted]
        return np.bincount(cells.ravel(), minlength=k * len(class_NxS)).reshape(-1, k).T

    present_KxN, guessed_KxN = count(truth_NxS, slice(None)), count(guess_NxS, slice(None))
    right_KxN = count(np.broadcast_to(truth_NxS, right_NxS.shape), right_NxS)
    # Every class of a split is in all of its labellings.
    return macro_metrics(right_KxN, present_KxN, guessed_KxN, present_KxN[:, 0] > 0)


def _auroc(truth_S: np.ndarray, scores_SxK: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From counts to the area under the ROC curve, one class against the rest, mean over classes.

    By ranks (Mann-Whitney), those of equal scores shared; NaN where a class is missing.
    """
    order_KxS = np.argsort(scores_SxK, axis=0).T

    def area(counts_SxR: np.ndarray) -> np.ndarray:
        total_R, areas = counts_SxR.sum(0), 0.0
        below = np.zeros((len(truth_S) + 1, counts_SxR.shape[1]), np.int32)
        for k, order in enumerate(order_KxS):
            ordered, own = scores_SxK[order, k], np.flatnonzero(truth_S == k)
            np.cumsum(counts_SxR[order], axis=0, out=below[1:])
            ranks = below[np.searchsorted(ordered, scores_SxK[own, k], "left")]
            ranks = (ranks + below[np.searchsorted(ordered, scores_SxK[own, k], "right")]) / 2
            positive = counts_SxR[own].sum(0).astype(np.float64)
            won = np.einsum("sr,sr->r", counts_SxR[own], ranks) - positive**2 / 2
            with np.errstate(invalid="ignore"):
                areas = areas + won / (positive * (total_R - positive))
        return areas / len(order_KxS)

    return area


def regression(
    targets_SxE: np.ndarray, predictions_SxE: np.ndarray, metrics: Collection[str]
) -> Measure:
    """Some of r2, pearson, cosine, top1 and top5 (see `bootstrap.score`)."""
    check_finite(predictions_SxE)
    each = {}
    if "cosine" in metrics:
        each["cosine"] = cosines(targets_SxE, predictions_SxE)
    if "pearson" in metrics and targets_SxE.shape[1] > 1:
        each["pearson"] = cosines(_centred(targets_SxE), _centred(predictions_SxE))
    if tops := [int(name[3:]) for name in metrics if name.startswith("top")]:
        hits = retrieved(targets_SxE, predictions_SxE, tops)
        each |= {f"top{top}": some for top, some in zip(tops, hits, strict=True)}

    def measure(counts_SxR: np.ndarray) -> dict[str, np.ndarray]:
        total_R = counts_SxR.sum(0)
        found = {name: values_S @ counts_SxR / total_R for name, values_S in each.items()}
        if "r2" in metrics:
            found["r2"] = r2(targets_SxE, predictions_SxE, counts_SxR)
        if "pearson" in metrics and "pearson" not in each:
            found["pearson"] = _pearson(targets_SxE, predictions_SxE, counts_SxR)
        return {name: found[name] for name in metrics}

    return measure


def r2(targets_SxE: np.ndarray, predictions_SxE: np.ndarray, counts_SxR: np.ndarray) -> np.ndarray:
    """(R,) coefficient of determination, mean over the columns that are not constant."""
    counts_SxR = counts_SxR.astype(np.float64)
    ratios = columns = np.zeros(counts_SxR.shape[1])
    for first in range(0, targets_SxE.shape[1], _COLUMNS_AT_ONCE):
        block = slice(first, first + _COLUMNS_AT_ONCE)
        targets = targets_SxE[:, block].astype(np.float64)
        errors = ((targets - predictions_SxE[:, block]) ** 2).T @ counts_SxR
        ratio_ExR = errors / _scatter(targets - targets.mean(0), counts_SxR)
        ratios = ratios + np.nansum(ratio_ExR, 0)
        columns = columns + (~np.isnan(ratio_ExR)).sum(0)
    with np.errstate(invalid="ignore"):
        return 1 - ratios / columns


def _pearson(targets_Sx1, predictions_Sx1, counts_SxR) -> np.ndarray:
    """(R,) correlation over samples; of constant predictions 0, of constant targets NaN."""
    counts_SxR = counts_SxR.astype(np.float64)
    t = targets_Sx1 - targets_Sx1.mean(dtype=np.float64)
    p = predictions_Sx1 - predictions_Sx1.mean(dtype=np.float64)
    joint = (t * p).T @ counts_SxR
    joint -= (t.T @ counts_SxR) * (p.T @ counts_SxR) / counts_SxR.sum(0)
    own, other = _scatter(t, counts_SxR)[0], _scatter(p, counts_SxR)[0]
    found = (joint[0] / np.sqrt(own * other)).clip(-1, 1)
    return np.where(np.isnan(other) & ~np.isnan(own), 0, found)


def _scatter(x_SxE: np.ndarray, counts_SxR: np.ndarray) -> np.ndarray:
    """(E, R) sums of squares about the mean of each resample; NaN where all values are the same."""
    squares = (x_SxE**2).T @ counts_SxR
    scatter = squares - (x_SxE.T @ counts_SxR) ** 2 / counts_SxR.sum(0)
    return np.where(scatter > _ROUNDING * squares, scatter, np.nan)


def cosines(targets_SxE: np.ndarray, predictions_SxE: np.ndarray) -> np.ndarray:
    """(S,) cosine of the angle between each target and its prediction; 0 where one is all zeros."""
    return np.einsum("se,se->s", unit_rows(targets_SxE), unit_rows(predictions_SxE))


def unit_rows(x_SxE: np.ndarray) -> np.ndarray:
    """(S, E) float64: rows of length 1; rows of zeros stay."""
    x_SxE = x_SxE.astype(np.float64)
    length = np.linalg.norm(x_SxE, axis=1, keepdims=True)
    return x_SxE / np.where(length > 0, length, 1)


def _centred(x_SxE: np.ndarray) -> np.ndarray:
    """Rows less their mean; exactly 0 where constant."""
    centred = x_SxE - x_SxE.mean(1, keepdims=True, dtype=np.float64)
    return np.where(np.ptp(x_SxE, axis=1, keepdims=True) > 0, centred, 0)


def retrieved(
    targets_SxE: np.ndarray, predictions_SxE: np.ndarray, tops: Sequence[int]
) -> np.ndarray:
    """(len(tops), S) float: 1 where a sample's own target is among the nearest to its prediction.

    The nearest of all different targets by cosine; what lies as near as the own target goes before
    it, so that a prediction of zeros finds nothing.
    """
    first_U, place_S = distinct_rows(targets_SxE)
    targets_ExU = unit_rows(targets_SxE[first_U]).astype(np.float32).T
    predictions_SxE = unit_rows(predictions_SxE).astype(np.float32)
    rank_S, rows = np.empty(len(place_S), int), max(1, _CELLS_AT_ONCE // len(first_U))
    for first in range(0, len(place_S), rows):
        block = slice(first, first + rows)
        near = predictions_SxE[block] @ targets_ExU
        own = np.take_along_axis(near, place_S[block, None], axis=1)
        rank_S[block] = len(first_U) - (near < own).sum(1)
    return (rank_S <= np.array(tops)[:, None]).astype(np.float64)


def distinct_rows(x_SxE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each different row is first (U,), and the place of every row among those (S,)."""
    seen: dict[bytes, int] = {}
    # Adding 0 turns -0 into 0, whose bytes differ.
    place_S = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in x_SxE + 0.0])
    return np.unique(place_S, return_index=True)[1], place_S
