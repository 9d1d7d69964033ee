"""Predictions of every sample by a model that has not seen its group, from closed-form heads.

All that is fitted (scaling, what takes confounds out, components, the head and its strength) is
fitted on the training samples of a fold, and the strength is chosen by folds within them. Letters:
S samples, F of them in a training set, D columns, R directions, K classes or columns of targets.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence

import joblib
import numpy as np
from scipy.linalg import eigh
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.probe.cohort.folds import Fold, inner_folds, nested_subsets
from fmrifm.probe.cohort.scores import Truth
from fmrifm.probe.heads.logistic import C_GRID, coordinates
from fmrifm.probe.heads.ridge import ALPHA_GRID, check_finite
from fmrifm.probe.scores.metrics import distinct_rows
from fmrifm.probe.scores.permutation import exchange, exchange_kind

STRENGTHS = C_GRID[::2]
_LOGISTIC = {"solver": "newton-cholesky", "class_weight": "balanced", "max_iter": 200}
_CURVE_REPEATS = 3
_WIDE = 600  # weights, from which on a Newton step takes too long

# From features (S, D) and the places of the training samples (F,) to features of all samples, by
# what the training samples say.
Prepare = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A row of the table to be.

    Attributes:
      head: logistic, ridge or majority.
      features: (S, D) float32 of each seed; of one where seeds change nothing.
      prepare: what is fitted to them first in each fold.
    """

    name: str
    head: str
    features: list[np.ndarray]
    prepare: list[Prepare]
    baseline: bool


def cross_fit(
    x_SxD: np.ndarray,
    truth: Truth,
    folds: Sequence[Fold],
    prepare: Sequence[Prepare] = (),
    seed: int = 0,
) -> tuple[np.ndarray, list[float]]:
    """Predicts the test samples of every fold.

    Logistic regression with balanced class weights, its strength C by the mean balanced accuracy of
    inner folds; or ridge regression, its alpha by the r2 of all their test
    samples; the strongest penalty on ties.

    Args:
      x_SxD: features; may have NaN only if `prepare` takes them out.
      prepare: what is done to the features first, in this order.
      seed: of the inner folds.

    Returns:
      (S, K) float32 probabilities of classes, or numbers, NaN for samples that no fold tests; and
      the strength chosen in each fold.
    """
    values, chosen = np.full((len(x_SxD), truth.n_out), np.nan, np.float32), []
    fit = _fit_ridge if truth.classes is None else _fit_logistic
    # Solvers that stop early on separable classes warn.
    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        for k, fold in enumerate(folds):
            z_SxD = x_SxD
            for step in prepare:
                z_SxD = step(z_SxD, fold.train)
            check_finite(z_SxD, "cohort")
            z_SxR = coordinates(z_SxD, fold.train)[0]
            if not z_SxR.shape[1]:  # the training samples are all the same
                z_SxR = np.zeros((len(z_SxD), 1))
            inner = inner_folds(fold.train, truth.labels, truth.subjects, truth.n_inner, seed + k)
            values[fold.test], strength = fit(z_SxR, truth, fold, inner)
            chosen.append(float(strength))
    return values, chosen


def _fit_logistic(z_SxR, truth: Truth, fold: Fold, inner: list[Fold]):
    y, train, settings = truth.labels, fold.train, dict(_LOGISTIC)
    if z_SxR.shape[1] * truth.n_out > _WIDE:
        settings["solver"] = "lbfgs"
    if inner:
        # Places of the folds among the training samples.
        folds = [
            (np.searchsorted(train, part.train), np.searchsorted(train, part.test))
            for part in inner
        ]
        model = LogisticRegressionCV(Cs=STRENGTHS, cv=folds, scoring=_balanced_accuracy, **settings)
    else:
        model = LogisticRegression(C=STRENGTHS[len(STRENGTHS) // 2], **settings)
    model.fit(z_SxR[train], y[train])
    values = np.zeros((len(fold.test), truth.n_out), np.float32)
    values[:, model.classes_] = model.predict_proba(z_SxR[fold.test])
    return values, np.ravel(model.C_ if inner else model.C)[0]


def _balanced_accuracy(model: LogisticRegression, z_SxR: np.ndarray, y: np.ndarray) -> float:
    """As scikit-learn's, whose checks take longer than all else in a fold."""
    right = np.bincount(y, model.predict(z_SxR) == y)
    counts = np.bincount(y)
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def _fit_ridge(z_SxR, truth: Truth, fold: Fold, inner: list[Fold]):
    y_SxK = truth.labels

    @functools.cache
    def solve(part: Fold) -> tuple:
        mean_R, mean_K = z_SxR[part.train].mean(0), y_SxK[part.train].mean(0, np.float64)
        z = (z_SxR[part.train] - mean_R).astype(np.float64)
        values, vectors = eigh(z.T @ z)
        aims = vectors.T @ (z.T @ (y_SxK[part.train] - mean_K))
        seen = (z_SxR[part.test] - mean_R) @ vectors
        return seen, aims, np.maximum(values, 0)[:, None], mean_K

    def predict(part: Fold, alpha: float) -> np.ndarray:
        seen, aims, values, mean_K = solve(part)
        return seen @ (aims / (values + alpha)) + mean_K

    if not inner:
        alpha = ALPHA_GRID[len(ALPHA_GRID) // 2]
        return predict(fold, alpha), alpha
    # The strongest first; equal scores are equal means only up to rounding.
    alphas = ALPHA_GRID[::-1]
    tested = np.concatenate([y_SxK[part.test] for part in inner])
    scores = [
        r2_score(tested, np.concatenate([predict(part, alpha) for part in inner]))
        for alpha in alphas
    ]
    alpha = alphas[np.round(scores, 9).argmax()]
    return predict(fold, alpha), alpha


def run_jobs(jobs: Iterable, total: int, name: str, unit: str = "fit") -> list:
    """Results of joblib's jobs, which all processes share, in their order."""
    found = joblib.Parallel(joblib.cpu_count(), return_as="generator")(jobs)
    return list(tqdm(found, name, total=total, unit=unit))


Deal = Callable[[np.ndarray], list[Fold]]  # folds of labels


def permuted_scores(row: Row, truth: Truth, deal: Deal, n: int, seed: int) -> np.ndarray:
    """(N,) main metric of one repeat for arrangements of the labels, folds and choices made anew.

    Labels are exchanged as in `permutation_test`, the groups being its subjects. Arrangements that
    cannot be dealt into folds are left out.
    """
    first, place_S = distinct_rows(truth.labels)
    kind, rng = exchange_kind(truth.labels, truth.subjects), np.random.default_rng(seed)
    drawn = exchange(place_S, truth.subjects, kind, n, rng)
    arranged = (dataclasses.replace(truth, labels=truth.labels[first[p]]) for p in drawn)
    work = (
        joblib.delayed(_score)(row.features[0], some, deal, row.prepare, seed + k)
        for k, some in enumerate(arranged)
    )
    scores = np.array(run_jobs(work, n, f"chance of {row.name}", "labelling"))
    return scores[np.isfinite(scores)]


def _score(x_SxD, truth: Truth, deal: Deal, prepare, seed: int) -> float:
    try:
        values, _ = cross_fit(x_SxD, truth, deal(truth.labels), prepare, seed)
    except InputError:
        return float("nan")
    return truth.measure(values)[truth.metric]


def learning_curve(
    row: Row, truth: Truth, folds: Sequence[Sequence[Fold]], shares: Sequence[float], seed: int
) -> list[dict[str, float]]:
    """The main metric on the same test samples, by how many groups are learned from.

    A smaller set is part of the larger ones; classes are in equal shares.

    Args:
      folds: of each repeat; three repeats at most are taken.
      shares: of the groups of each training set; all of them are added.
      seed: of which groups, and of the inner folds.

    Returns:
      {"n_subjects", "value", "low", "high"} by rising number of groups: means over the repeats, and
      the least and the most of them. Shares in which a class gets lost are left out.
    """
    repeats = folds[:_CURVE_REPEATS]
    work = [
        joblib.delayed(_curve_point)(row, truth, some, share, seed, r)
        for share in sorted({*shares, 1.0})
        for r, some in enumerate(repeats)
    ]
    points, n = run_jobs(work, len(work), f"learning curve of {row.name}"), len(repeats)
    return [
        {
            "n_subjects": float(np.mean([size for size, _ in some])),
            "value": float(np.mean([value for _, value in some])),
            "low": min(value for _, value in some),
            "high": max(value for _, value in some),
        }
        for some in (points[i : i + n] for i in range(0, len(points), n))
        if None not in some
    ]


def _curve_point(
    row: Row, truth: Truth, folds: Sequence[Fold], share: float, seed: int, r: int
) -> tuple[float, float] | None:
    """Groups learned from, mean over the folds, and the main metric; None of too few."""
    smaller = [_thin(fold, truth, share, seed + r) for fold in folds]
    if None in smaller:
        return None
    try:
        found, _ = cross_fit(row.features[0], truth, smaller, row.prepare, seed)
    except InputError:  # too few to take confounds out
        return None
    sizes = [len(np.unique(truth.subjects[fold.train])) for fold in smaller]
    return float(np.mean(sizes)), truth.measure(found)[truth.metric]


def _thin(fold: Fold, truth: Truth, share: float, seed: int) -> Fold | None:
    """The fold with a share of the groups to learn from; None where a class gets lost."""
    labels, groups = truth.labels, truth.subjects
    n = round(share * len(np.unique(groups[fold.train])))
    train = nested_subsets(labels, groups, fold.train, n, seed)
    lost = labels.ndim == 1 and len(np.unique(labels[train])) < len(np.unique(labels))
    return None if lost or len(train) < 2 else Fold(train, fold.test)
