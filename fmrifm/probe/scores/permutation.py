"""Could a score have come about by chance?

Labels are exchanged as they could have been if they had nothing to do with the brain, and the
predictions are scored again. p is that of Phipson & Smyth (Permutation P-values should never be
zero, Stat. Appl. Genet. Mol. Biol. 9, 2010).

Labels, predictions and subjects are as in bootstrap.py. Letters: N arrangements of the labels, S
samples, G subjects, K classes, E columns of a regression.
"""

from collections.abc import Callable

import numpy as np

from data_tools.errors import InputError
from fmrifm.probe.scores.metrics import (
    CLASSIFICATION,
    check_finite,
    class_numbers,
    distinct_rows,
    macro_scores,
    r2,
    unit_rows,
)

_CELLS_AT_ONCE = 2_000_000
# The same arrangement summed in another order may fall this far short of itself.
_ROUNDING = 1e-9
# Shares of the labels' variance that lie between subjects: below, states; above, traits.
_HARDLY, _MOSTLY = 0.4, 0.8
_TINY = 1e-12


def permutation_test(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: np.ndarray | None,
    subjects: np.ndarray,
    metric: str = "balanced_accuracy",
    n: int = 1000,
    seed: int = 0,
) -> dict[str, float | str]:
    """Scores predictions against labels that are exchanged, as `exchange_kind` chooses.

    Args:
      classes: None in regression.
      metric: accuracy, balanced_accuracy or f1_macro; in regression r2, or cosine (E > 1).

    Returns:
      "metric"; "p" = (1 + how many arrangements score as well as the labels) / (1 + n), and 1 where
      the labels can be arranged in one way only; "kind", see `exchange_kind`; "null_mean" and
      "null_high", mean and 95th percentile of the arrangements' scores.
    """
    known = ("r2", "cosine") if classes is None else CLASSIFICATION
    if metric not in known:
        raise InputError(f"There is no metric '{metric}': choose of {', '.join(known)}.")
    if classes is None:
        values, label_S = _regression(labels, predictions, metric)
    else:
        label_S, guess_S = (class_numbers(some, classes) for some in (labels, predictions))

        def values(label_NxS: np.ndarray) -> np.ndarray:
            return macro_scores(label_NxS, guess_S[None], len(classes))[metric]

    kind = exchange_kind(label_S if classes is not None else labels, subjects)
    observed = values(label_S[None])[0]
    rng, step = np.random.default_rng(seed), max(1, _CELLS_AT_ONCE // len(label_S))
    blocks = [min(step, n - first) for first in range(0, n, step)]
    null = np.concatenate([values(exchange(label_S, subjects, kind, size, rng)) for size in blocks])
    return {"metric": metric, **compare_with_null(observed, null), "kind": kind}


def _regression(
    targets: np.ndarray, predictions: np.ndarray, metric: str
) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """The scores (N,) of arrangements (N, S) of numbers of targets, and (S,) these numbers."""
    targets, guess = (x.reshape(len(x), -1) for x in (targets, predictions))
    if metric == "cosine" and targets.shape[1] == 1:
        raise InputError("cosine of single values is not defined: choose r2.")
    check_finite(guess)
    first, place_S = distinct_rows(targets)
    if metric == "r2" and len(first) == 1:
        raise InputError("r2 of targets that are all the same is not defined: choose more.")
    if metric == "cosine":
        targets, guess = unit_rows(targets), unit_rows(guess)
    different, once = targets[first], np.ones((len(targets), 1))

    def value(place_S: np.ndarray) -> float:
        if metric == "r2":
            return r2(different[place_S], guess, once)[0]
        return np.einsum("se,se->", different[place_S], guess) / len(guess)

    return lambda place_NxS: np.array([value(place_S) for place_S in place_NxS]), place_S


def exchange_kind(labels: np.ndarray, subjects: np.ndarray) -> str:
    """What is exchanged, by the share of the labels' variance that lies between subjects.

    Args:
      labels: (S,) int classes, or (S,) or (S, E) float numbers.
      subjects: (S,) people, or families.

    Returns:
      "within" where hardly any does (states): each subject's samples exchange their labels.
      "across" where nearly all does (traits, and what changes little or in few people): subjects
      exchange the series of their labels, since that is how many independent labels there are.
      "both" between these (siblings, whose families are the subjects): series are exchanged, then
      their labels. To exchange within subjects only would keep most labels as they are, and
      nothing would ever be significant.
    """
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        labels = labels[:, None] == np.unique(labels)
    x_SxE = labels.reshape(len(labels), -1).astype(np.float64)
    x_SxE = x_SxE - x_SxE.mean(0)
    subject_S = np.unique(subjects, return_inverse=True)[1]
    count_G = np.bincount(subject_S)
    sums_ExG = np.stack([np.bincount(subject_S, x) for x in x_SxE.T])
    total_E, between_E = (x_SxE**2).sum(0), (sums_ExG**2 / count_G).sum(1)
    # Numbers by the column, as r2 counts them; classes together, so that rare ones weigh little.
    share = between_E.sum() / max(total_E.sum(), _TINY)
    if labels.dtype.kind == "f":
        varies = total_E > _TINY
        share = (between_E[varies] / total_E[varies]).mean() if varies.any() else 1.0
    if share > _MOSTLY or not total_E.sum():
        return "across"
    return "within" if share < _HARDLY else "both"


def exchange(
    label_S: np.ndarray, subjects: np.ndarray, kind: str, n: int, rng: np.random.Generator
) -> np.ndarray:
    """(N, S) arrangements of labels (S,), as `exchange_kind` describes them.

    A series that moves to a subject with more or fewer samples is stretched or thinned.
    """
    subject_S = np.unique(subjects, return_inverse=True)[1]
    count_G = np.bincount(subject_S)
    order_S = np.argsort(subject_S, kind="stable")  # samples, subject by subject
    first_G = np.cumsum(count_G) - count_G
    labels_NxS = np.broadcast_to(label_S, (n, len(label_S)))
    if kind != "within":
        place_S = np.empty(len(label_S), int)  # among the samples of the subject
        place_S[order_S] = np.arange(len(label_S)) - first_G[subject_S[order_S]]
        from_NxS = rng.permuted(np.tile(np.arange(len(count_G)), (n, 1)), axis=1)[:, subject_S]
        place_NxS = (2 * place_S + 1) * count_G[from_NxS] // (2 * count_G[subject_S])
        labels_NxS = label_S[order_S[first_G[from_NxS] + place_NxS]]
    if kind != "across":
        shuffled_NxS = np.argsort(subject_S + rng.random((n, len(label_S))), axis=1)
        inside_NxS = np.empty_like(shuffled_NxS)
        inside_NxS[:, order_S] = shuffled_NxS
        labels_NxS = np.take_along_axis(labels_NxS, inside_NxS, axis=1)
    return labels_NxS


def compare_with_null(observed: float, null_N: np.ndarray) -> dict[str, float]:
    """ "p", "null_mean" and "null_high" of `permutation_test`, of a score and those by chance."""
    as_good = (null_N >= observed - _ROUNDING * max(1, abs(observed))).sum()
    return {
        "p": float((1 + as_good) / (1 + len(null_N))),
        "null_mean": float(null_N.mean()),
        "null_high": float(np.percentile(null_N, 95)),
    }
