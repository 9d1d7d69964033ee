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


def permutation_test(
    labels: np.ndarray,
    predictions: np.ndarray,
    classes: np.ndarray | None,
    subjects: np.ndarray,
    metric: str = "balanced_accuracy",
    n: int = 1000,
    seed: int = 0,
) -> dict[str, float | str]:
    """Scores predictions against labels that are exchanged.

    Where labels vary within subjects (a state), each subject's samples exchange theirs; subjects
    that have one label only keep it. Where every subject has one label (a trait), whole subjects
    exchange theirs, since that is how many independent labels there are.

    Args:
      classes: None in regression.
      metric: accuracy, balanced_accuracy or f1_macro; in regression r2, or cosine (E > 1).

    Returns:
      "metric"; "p" = (1 + how many arrangements score as well as the labels) / (1 + n), and 1 where
      the labels can be arranged in one way only; "kind", "within" or "across" subjects; "null_mean"
      and "null_high", mean and 95th percentile of the arrangements' scores.
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

    observed, kind = values(label_S[None])[0], exchange_kind(label_S, subjects)
    rng, step = np.random.default_rng(seed), max(1, _CELLS_AT_ONCE // len(label_S))
    blocks = [min(step, n - first) for first in range(0, n, step)]
    null = np.concatenate([values(exchange(label_S, subjects, size, rng)) for size in blocks])
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


def exchange_kind(label_S: np.ndarray, subjects: np.ndarray) -> str:
    """ "across" where every subject has one label only, else "within"."""
    pairs = {*zip(subjects.tolist(), label_S.tolist(), strict=True)}
    return "across" if len(pairs) == len({*subjects.tolist()}) else "within"


def exchange(
    label_S: np.ndarray, subjects: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """(N, S) arrangements of labels (S,) int, as `permutation_test` exchanges them."""
    _, first_G, subject_S = np.unique(subjects, return_index=True, return_inverse=True)
    if exchange_kind(label_S, subjects) == "across":
        return rng.permuted(np.tile(label_S[first_G], (n, 1)), axis=1)[:, subject_S]
    shuffled = np.argsort(subject_S + rng.random((n, len(label_S))), axis=1)
    labels_NxS = np.empty((n, len(label_S)), label_S.dtype)
    labels_NxS[:, np.argsort(subject_S, kind="stable")] = label_S[shuffled]
    return labels_NxS


def compare_with_null(observed: float, null_N: np.ndarray) -> dict[str, float]:
    """ "p", "null_mean" and "null_high" of `permutation_test`, of a score and those by chance."""
    as_good = (null_N >= observed - _ROUNDING * max(1, abs(observed))).sum()
    return {
        "p": float((1 + as_good) / (1 + len(null_N))),
        "null_mean": float(null_N.mean()),
        "null_high": float(np.percentile(null_N, 95)),
    }
