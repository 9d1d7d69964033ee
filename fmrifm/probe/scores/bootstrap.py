"""Scores with their uncertainty, and the difference of two models.

Uncertainty is that of the bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993):
of samples within their class, which says how far the number of samples carries, and of whole
subjects (Field & Welsh, Bootstrapping clustered data, JRSS B 69, 2007), which says what to expect
of other subjects. Samples of one subject are alike: where subjects repeat, trust the second.

Resamples of fewer than five subjects tell too little: their interval is that of t over subjects,
by the jackknife (Efron & Tibshirani, chapter 11), which is wide, or there is none.

Labels and predictions are (S,) of the classes (K,), or (S, E) or (S,) float in regression; scores
are probabilities in the order of the classes; subjects (S,) str say whose sample each is. Letters:
S samples, R resamples, K classes, E columns of a regression, U units that are drawn.
"""

import numpy as np
from scipy import stats

from data_tools.errors import InputError
from fmrifm.probe.scores.metrics import (
    CLASSIFICATION,
    REGRESSION,
    Measure,
    class_numbers,
    classification,
    regression,
)

RESAMPLES = 500
# A comparison's p is at least 2 / (1 + this).
_RESAMPLES_OF_COMPARISON = 2000
# With fewer resamples that have a value, none lies in a tail of 2.5 %.
_FEWEST = 40
FEWEST_SUBJECTS = 5  # that are resampled
_EQUAL = 1e-9
BOUNDS = {"r2": (-np.inf, 1.0), "pearson": (-1.0, 1.0), "cosine": (-1.0, 1.0)}  # others 0 to 1
_MOST_CONFUSED = 100  # classes; the matrix of more is too large for a results.json
_CELLS_AT_ONCE = 2_000_000


def score(
    labels: np.ndarray,
    predictions: np.ndarray,
    scores_SxK: np.ndarray | None = None,
    classes: np.ndarray | None = None,
    seed: int = 0,
    subjects: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Scores of predictions on a whole split.

    Args:
      scores_SxK, classes: None in regression.

    Returns:
      {metric: {"value", "std", "low", "high"}}: the value, and the standard deviation and 95 %
      interval over bootstrap resamples, stratified by class. Where there are five subjects or more
      and some have several samples, also "subject_std", "subject_low" and "subject_high" over
      resamples of whole subjects: a class missing from a resample is left out of its means, and the
      resample out of auroc's spread, which is left out where hardly any resample has all classes.
      Of two to four subjects, "low" and "high", and these three, are those of t over subjects;
      where that is not defined, as of one subject or of equal ones, "low" and "high" are None.
      Of a classifier the metrics are

      - accuracy, balanced_accuracy, f1_macro: the means over the classes of the split;
      - auroc: one against the rest, mean over classes; left out where a class is missing from the
        split.

      Of a regression they are

      - r2: mean over the columns that are not constant in the split (there is none: left out);
      - pearson: for E = 1 the correlation over samples (left out where targets are constant), for
        E > 1 the correlation of each sample's target and prediction over columns, mean over
        samples; with a constant it is 0;
      - cosine (E > 1): mean over samples, 0 with zeros;
      - top1, top5 (E > 1): the share of samples whose own target is among the 1 or 5 nearest to the
        prediction by cosine, among all different targets of the split; ties go against it.
    """
    if classes is None:
        targets_SxE, predictions_SxE = _columns(labels), _columns(predictions)
        several = targets_SxE.shape[1] > 1
        metrics = (*REGRESSION, "top1", "top5") if several else ("r2", "pearson")
        measure = regression(targets_SxE, predictions_SxE, metrics)
        stratum_S = np.zeros(len(labels), int)
    else:
        stratum_S, guess_S = (class_numbers(some, classes) for some in (labels, predictions))
        measure = classification(stratum_S, guess_S, len(classes), scores_SxK)
    found = measure(np.ones((len(stratum_S), 1), np.int32))
    scores = {name: {"value": float(v[0])} for name, v in found.items() if not np.isnan(v[0])}
    spreads = {"": _resampled(measure, np.arange(len(stratum_S)), stratum_S, seed, RESAMPLES)}
    few = _few_subjects(subjects)
    unit_S, stratum_U = _whole_subjects(subjects)
    if unit_S is not None and few is None:
        spreads["subject_"] = _resampled(measure, unit_S, stratum_U, seed, RESAMPLES)
    for prefix, values in spreads.items():
        for name, result in scores.items():
            some = values[name][~np.isnan(values[name])]
            if len(some) >= _FEWEST or not prefix:
                low, high = np.percentile(some, [2.5, 97.5])
                spread = {"std": some.std(), "low": low, "high": high}
                result |= {prefix + key: float(v) for key, v in spread.items()}
    if few is not None:
        errors = _jackknife(measure, few)
        for name, result in scores.items():
            error = errors.get(name, np.nan)
            result |= _t_interval(name, result["value"], error, few.max())
    return scores


def _few_subjects(subjects: np.ndarray | None) -> np.ndarray | None:
    """Number of each sample's subject where there are too few to be resampled; else None."""
    if subjects is None:
        return None
    names, unit_S = np.unique(subjects, return_inverse=True)
    return unit_S if len(names) < FEWEST_SUBJECTS else None


def _jackknife(measure: Measure, unit_S: np.ndarray) -> dict[str, float]:
    """Standard error of each metric, from the values without one subject at a time."""
    n = unit_S.max() + 1
    values = measure((unit_S[:, None] != np.arange(n)).astype(np.int32)) if n > 1 else {}
    return {name: float(np.sqrt((n - 1) * x.var())) for name, x in values.items()}


def _t_interval(name: str, value: float, error: float, df: int) -> dict[str, float | None]:
    """The figures of a metric of few subjects; no interval where they are as good as equal."""
    if not error > _EQUAL:
        return {"low": None, "high": None}
    reach = error * stats.t.ppf(0.975, df)
    least, most = BOUNDS.get(name, (0.0, 1.0))
    ends = {"low": max(least, value - reach), "high": min(most, value + reach)}
    ends = {key: float(end) for key, end in ends.items()}
    return {**ends, "subject_std": error, **{f"subject_{key}": end for key, end in ends.items()}}


def describe_errors(labels: np.ndarray, predictions: np.ndarray, classes: np.ndarray) -> dict:
    """What is taken for what.

    Returns:
      {"confusion": K lists of K ints, how many samples of the row's class are taken for the
      column's, None of more than 100 classes; "recall": {class: the share of its samples that are
      recognised, None without any}}.
    """
    k = len(classes)
    cell_S = class_numbers(labels, classes) * k + class_numbers(predictions, classes)
    confusion = np.bincount(cell_S, minlength=k * k).reshape(k, k)
    rows = zip(classes.tolist(), confusion.diagonal(), confusion.sum(1), strict=True)
    recall = {name: float(right / n) if n else None for name, right, n in rows}
    return {"confusion": confusion.tolist() if k <= _MOST_CONFUSED else None, "recall": recall}


def compare_paired(
    labels: np.ndarray,
    predictions_a: np.ndarray,
    predictions_b: np.ndarray,
    subjects: np.ndarray | None = None,
    metric: str = "accuracy",
    seed: int = 0,
) -> dict[str, float]:
    """How much better one model is than another on the same samples.

    Both are scored on the same bootstrap resamples: of whole subjects where there are several and
    some have several samples, else of samples within their class.

    Args:
      metric: accuracy, balanced_accuracy or f1_macro of classes; r2, pearson or cosine of numbers.

    Returns:
      "difference", the metric of a less that of b; "low" and "high", its 95 % interval (of two to
      four subjects that of t, None where it is not defined); "p",
      two-sided: twice (1 + n) / (1 + R) where n of R resamples lie on the other side of zero or on
      it, and at most 1; so p is never 0, and near 0.05 where an end of the interval is zero. Of U
      subjects (or samples) it is 2 ** (1 - U) or more, as in a sign test: two that agree prove
      nothing, and resamples of them cannot tell.
    """
    measures = [_metric_of(metric, labels, some) for some in (predictions_a, predictions_b)]

    def difference(counts_SxR: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (measure(counts_SxR)[metric] for measure in measures)
        return {metric: a - b}

    everything = np.ones((len(labels), 1), np.int32)
    value = difference(everything)[metric][0]
    if np.isnan(value):
        raise InputError(f"{metric} of targets that are all the same is not defined: choose more.")
    unit_S, stratum_U = _whole_subjects(subjects)
    if unit_S is None:
        strata = labels if metric in CLASSIFICATION else np.zeros(len(labels), int)
        unit_S, stratum_U = np.arange(len(labels)), np.unique(strata, return_inverse=True)[1]
    values = _resampled(difference, unit_S, stratum_U, seed, _RESAMPLES_OF_COMPARISON)[metric]
    values = values[~np.isnan(values)]
    low, high = map(float, np.percentile(values, [2.5, 97.5]))
    few = _few_subjects(subjects)
    if few is not None and few.max() > 0:
        reach = _jackknife(difference, few)[metric] * stats.t.ppf(0.975, few.max())
        low, high = (float(value - reach), float(value + reach)) if reach > _EQUAL else (None, None)
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    least = 2.0 ** (1 - len(stratum_U))
    p = min(1.0, max(least, 2 * (1 + beyond) / (1 + len(values))))
    return {"difference": float(value), "low": low, "high": high, "p": float(p)}


def _metric_of(metric: str, labels: np.ndarray, predictions: np.ndarray) -> Measure:
    """The metric of that name."""
    if metric in CLASSIFICATION:
        classes, numbers = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
        return classification(numbers[: len(labels)], numbers[len(labels) :], len(classes))
    if metric not in REGRESSION:
        known = ", ".join((*CLASSIFICATION, *REGRESSION))
        raise InputError(f"There is no metric '{metric}' to compare by: choose of {known}.")
    targets, predictions = _columns(labels), _columns(predictions)
    if metric == "cosine" and targets.shape[1] == 1:
        raise InputError("cosine of single values is not defined: choose r2.")
    return regression(targets, predictions, (metric,))


def _columns(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _whole_subjects(subjects: np.ndarray | None) -> tuple:
    """Number of each sample's subject and the one stratum of all; None where that tells nothing."""
    if subjects is not None:
        names, unit_S = np.unique(subjects, return_inverse=True)
        if 1 < len(names) < len(subjects):
            return unit_S, np.zeros(len(names), int)
    return None, None


def _resampled(
    measure: Measure, unit_S: np.ndarray, stratum_U: np.ndarray, seed: int, resamples: int
) -> dict[str, np.ndarray]:
    """Values (R,) over resamples of units, block by block."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // len(unit_S))
    blocks = []
    for first in range(0, resamples, step):
        counts_UxR = _draw(stratum_U, min(step, resamples - first), rng)
        blocks.append(measure(counts_UxR[unit_S]))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _draw(stratum_U: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(U, R) int32: how often each unit is drawn, from every stratum as many as it has."""
    order = np.argsort(stratum_U, kind="stable")
    _, first, size = np.unique(stratum_U[order], return_index=True, return_counts=True)
    first_U, size_U = np.repeat(first, size)[:, None], np.repeat(size, size)[:, None]
    shape = (len(stratum_U), resamples)
    cell = order[first_U + rng.integers(size_U, size=shape)] * resamples + np.arange(resamples)
    return np.bincount(cell.ravel(), minlength=cell.size).reshape(shape).astype(np.int32)
