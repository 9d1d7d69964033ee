"""Classifiers without a training loop: logistic regression, and the majority and the mean.

Letters: S samples, F of them that are fitted, D columns, R directions that the fitted samples span,
K classes, E columns of targets.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Iterator

import joblib
import numpy as np
from scipy.linalg import eigh
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import accuracy_score, recall_score
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from data_tools.errors import InputError
from fmrifm.probe.heads.ridge import check_finite, gram, standard_blocks
from fmrifm.probe.heads.settings import LogisticSettings

C_GRID = np.logspace(-4, 4, 10)
_SELECTION_SPLITS = 5
# Beyond this many samples and columns a full decomposition takes hours: the leading directions do.
_MOST_DIRECTIONS = 2000
_MOST_ITERATIONS = 1000
_SPLITS_MEMORY = 8 * 2**30  # bytes that random splits fitted at once may take
# Eigenvalues of a Gram matrix below this share of the largest are rounding.
_ROUNDING = 1e-10
_SETTINGS = LogisticSettings()


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted scikit-learn classifier whose classes are 0 ... K - 1."""

    model: ClassifierMixin

    def predict_values(self, x_SxD: np.ndarray) -> np.ndarray:
        """(S, K) float32 probabilities."""
        check_finite(x_SxD, "test")
        return self.model.predict_proba(x_SxD).astype(np.float32)


def typical_values(labels: np.ndarray) -> np.ndarray:
    """(K,) float32 shares of the classes (S,) int, or the mean (E,) of the targets (S, E)."""
    if labels.ndim > 1:
        return labels.mean(0, dtype=np.float64).astype(np.float32)
    return (np.bincount(labels) / len(labels)).astype(np.float32)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores fits that do not converge: results report it for the final fit.

    Filters belong to the process, so this must not be entered within a thread.
    """
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        yield


@_without_warnings()
def fit_logistic(
    train: tuple, val: tuple, seed: int = 0, settings: LogisticSettings = _SETTINGS
) -> tuple[Classifier, dict]:
    """Standardises the pooled training and validation set, and fits L2 logistic regression.

    C has the best mean balanced accuracy, the smallest on ties, over five stratified random splits
    of the pool with tests as large as the validation set. Where classes are too rare for that, C
    is chosen on the validation set, by fits on the training set. What is returned is fitted on the
    pool.

    As a grid search of scikit-learn's pipeline, up to the tolerance of its optimiser. Only where
    samples and columns both are more than 2,000, all splits share the leading 2,000 principal
    directions of the pool, by a randomised decomposition.

    With settings.protocol="brainmarks" the fit is that of Brainmarks, number by number: it draws
    its splits from the seed (its own is 4466), and all share the standardisation of the pool.

    Args:
      train, val: (features (S, D) float32, labels (S,) int).
      seed: of the splits and the randomised decomposition.
      settings: weights of classes, and the protocol.

    Returns:
      The fitted classifier, and {"C", "chosen_on": "random_splits" or "validation"}, and
      "converged": False where the last fit was not at its end after 1,000 iterations.
    """
    check_finite(train[0], "training")
    check_finite(val[0], "validation")
    x_SxD, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    return _fit_pool(x_SxD, labels, len(train[0]), seed, settings, jobs=-1)


@_without_warnings()
def random_splits(
    x_SxD: np.ndarray,
    labels: np.ndarray,
    n_train: int,
    n_val: int,
    n_test: int,
    n: int = 100,
    seed: int = 0,
    settings: LogisticSettings = _SETTINGS,
) -> dict:
    """Scores of `fit_logistic` on random stratified splits of all samples, sizes as given.

    Samples are split one by one: those of one subject come to lie in training and test, so the
    scores are NOT of unseen subjects and are often far too high. They serve to compare with
    publications that split so, never as a measure of generalisation.

    Args:
      x_SxD: float32 features of training, validation and test set together.
      labels: (S,) int.
      n_train, n_val, n_test: how many samples each random set has; at most S together.
      n: number of splits.
      seed: of all of them.
      settings: as of `fit_logistic`.

    Returns:
      {"accuracy": {"mean", "std"}, "balanced_accuracy": {"mean", "std"}, "n"} over the splits.
    """
    check_finite(x_SxD, "pooled")
    check_random_splits(labels, n_train, n_val, n_test)

    def scores(pool: np.ndarray, test: np.ndarray, split_seed: int) -> tuple[float, float]:
        fitted, _ = _fit_pool(x_SxD[pool], labels[pool], n_train, split_seed, settings, jobs=1)
        guesses = fitted.model.predict(x_SxD[test])
        return accuracy_score(labels[test], guesses), balanced_accuracy(labels[test], guesses)

    n_pool, rows = n_train + n_val, np.arange(len(labels))
    if settings.protocol == "brainmarks":
        seeds = [seed] * n
        draw = functools.partial(train_test_split, rows, train_size=n_pool, stratify=labels)
        splits = (draw(random_state=(seed + k) % 2**32) for k in range(1, n + 1))
    else:
        seeds = [(seed + k) % 2**32 for k in range(n)]
        splitter = StratifiedShuffleSplit(n, train_size=n_pool, test_size=n_test, random_state=seed)
        splits = splitter.split(labels, labels)
    work = (joblib.delayed(scores)(*rows, k) for rows, k in zip(splits, seeds, strict=True))
    # Each copies its samples and standardises the copy.
    jobs = max(1, min(joblib.cpu_count(), _SPLITS_MEMORY // (3 * x_SxD.nbytes)))
    columns = zip(*_in_threads(work, jobs), strict=True)
    named = zip(("accuracy", "balanced_accuracy"), columns, strict=True)
    spread = {name: {"mean": float(np.mean(v)), "std": float(np.std(v))} for name, v in named}
    return {**spread, "n": n}


def check_random_splits(labels: np.ndarray, n_train: int, n_val: int, n_test: int) -> None:
    """Raises InputError where a class is too rare for `random_splits`, or a set too small."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        rare = classes[counts.argmin()]
        raise InputError(
            f"Class '{rare}' has a single sample, which no random split can share out: filter it, "
            "or set random_splits to 0."
        )
    if len(classes) > min(n_train + n_val, n_test):
        raise InputError(
            f"Random splits of {len(classes)} classes need as many samples in training and test: "
            f"there are {n_train + n_val} and {n_test}."
        )


def _fit_pool(
    x_SxD: np.ndarray,
    labels: np.ndarray,
    n_train: int,
    seed: int,
    settings: LogisticSettings,
    jobs: int,
) -> tuple[Classifier, dict]:
    """As `fit_logistic`, of a pool whose first `n_train` samples are the training set."""
    if len(np.unique(labels[:n_train])) < 2:
        raise InputError(f"All training samples are of class {labels[0]}: two classes are needed.")
    if settings.protocol == "brainmarks":
        return _fit_brainmarks(x_SxD, labels, n_train, seed, settings, jobs)
    leading = None
    if min(x_SxD.shape) > _MOST_DIRECTIONS:
        pca = PCA(_MOST_DIRECTIONS, svd_solver="randomized", random_state=seed, copy=False)
        leading = make_pipeline(StandardScaler(), pca)
        reduced_SxR = leading.fit_transform(x_SxD)
    splits, chosen_on = _selection_splits(labels, n_train, seed)

    def scores(fit: np.ndarray, test: np.ndarray) -> list[float]:
        z_SxR = coordinates(x_SxD, fit)[0] if leading is None else reduced_SxR
        models = (_logistic(z_SxR[fit], labels[fit], c, settings) for c in C_GRID)
        return [balanced_accuracy(labels[test], model.predict(z_SxR[test])) for model in models]

    every = _in_threads((joblib.delayed(scores)(*split) for split in splits), jobs)
    # Equal scores are equal means only up to rounding.
    c = float(C_GRID[np.mean(every, 0).round(9).argmax()])
    if leading is None:
        model = _fit_all_columns(x_SxD, labels, c, settings)
    else:
        model = make_pipeline(leading, _logistic(reduced_SxR, labels, c, settings))
    ended = model[-1].n_iter_.max() < _MOST_ITERATIONS
    told = {"C": c, "chosen_on": chosen_on} | ({} if ended else {"converged": False})
    return Classifier(model), told


def _fit_brainmarks(
    x_SxD: np.ndarray,
    labels: np.ndarray,
    n_train: int,
    seed: int,
    settings: LogisticSettings,
    jobs: int,
) -> tuple[Classifier, dict]:
    """As `_fit_pool`, with the settings of Brainmarks, down to where optimisers stop."""
    state, share = np.random.RandomState(seed), (len(labels) - n_train) / len(labels)
    cv_seed = state.randint(1000, 10000)
    model = LogisticRegressionCV(
        Cs=C_GRID,
        cv=StratifiedShuffleSplit(_SELECTION_SPLITS, test_size=share, random_state=cv_seed),
        scoring="balanced_accuracy",
        max_iter=_MOST_ITERATIONS,
        class_weight=settings.weight,
        n_jobs=jobs,
        random_state=state,
    )
    try:
        model = make_pipeline(StandardScaler(), model).fit(x_SxD, labels)
    except ValueError as error:
        raise InputError(
            f"Brainmarks cannot split these classes ({error}): set logistic.protocol=fmrifm."
        ) from error
    return Classifier(model), {"C": float(np.ravel(model[-1].C_)[0]), "chosen_on": "random_splits"}


def _selection_splits(labels: np.ndarray, n_train: int, seed: int) -> tuple[list, str]:
    """Rows to fit and rows to test, for each comparison of the C; and what to call them."""
    counts, n_val = np.unique(labels, return_counts=True)[1], len(labels) - n_train
    if counts.min() > 1 and len(counts) <= min(n_train, n_val):
        splitter = StratifiedShuffleSplit(_SELECTION_SPLITS, test_size=n_val, random_state=seed)
        splits = list(splitter.split(labels, labels))
        if all(len(np.unique(labels[fit])) > 1 for fit, _ in splits):
            return splits, "random_splits"
    rows = np.arange(len(labels))
    return [(rows[:n_train], rows[n_train:])], "validation"


def coordinates(x_SxD: np.ndarray, fit: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(S, R) standardised features, and how directions are made of samples (F, R).

    Of fewer samples than columns, along the directions that the samples `fit` span: an L2 penalty
    leaves no weight outside of them, so no prediction changes. The directions follow from the
    samples' Gram matrix, far sooner than from a decomposition of all the columns. Otherwise along
    the columns themselves, and None.
    """
    if len(fit) >= x_SxD.shape[1]:
        return StandardScaler().fit(x_SxD[fit]).transform(x_SxD), None
    gram_SxF = gram(x_SxD, fit)
    values, vectors = eigh(gram_SxF[fit])
    keep = values > values[-1] * _ROUNDING
    weights_FxR = vectors[:, keep] / np.sqrt(values[keep])
    return gram_SxF @ weights_FxR, weights_FxR


def _fit_all_columns(
    x_SxD: np.ndarray, labels: np.ndarray, c: float, settings: LogisticSettings
) -> Pipeline:
    """A classifier of plain features, fitted by their coordinates."""
    every = np.arange(len(x_SxD))
    z_SxR, weights_SxR = coordinates(x_SxD, every)
    model = _logistic(z_SxR, labels, c, settings)
    if weights_SxR is not None:
        by_sample = model.coef_ @ weights_SxR.T
        parts = [by_sample @ block for block in standard_blocks(x_SxD, every)]
        model.coef_, model.n_features_in_ = np.concatenate(parts, 1), x_SxD.shape[1]
    return make_pipeline(StandardScaler().fit(x_SxD), model)


def _logistic(
    z_SxR: np.ndarray, labels: np.ndarray, c: float, settings: LogisticSettings
) -> LogisticRegression:
    model = LogisticRegression(C=c, max_iter=_MOST_ITERATIONS, class_weight=settings.weight)
    with threadpool_limits(1):
        return model.fit(z_SxR, labels)


def balanced_accuracy(labels: np.ndarray, guesses: np.ndarray) -> float:
    """The mean recall of the classes that `labels` have."""
    return recall_score(labels, guesses, labels=np.unique(labels), average="macro")


def _in_threads(work: Iterable, jobs: int) -> list:
    """Results of joblib's work; threads of BLAS slow such small products down."""
    with threadpool_limits(1):
        return joblib.Parallel(jobs, prefer="threads")(work)
