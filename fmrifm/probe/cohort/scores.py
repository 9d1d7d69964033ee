"""Scores of a cohort's predictions: how high, how sure, and how high by chance.

Folds overlap in what they learn from, so their scores are no independent measurements: the variance
of their mean is (1/J + tested/learned) times their variance (Nadeau & Bengio, Inference for the
generalization error, Machine Learning 52, 2003). Letters: S samples, K classes or columns of
numbers, J folds of all repeats, R repeats, N seeds.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from fmrifm.probe.cohort.folds import Fold
from fmrifm.probe.scores.bootstrap import BOUNDS, FEWEST_SUBJECTS, compare_paired, score
from fmrifm.probe.scores.metrics import classification, regression

_FEWEST = 2  # folds that have a score
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """Labels to predict, and the person or family of each sample.

    Attributes:
      labels: (S,) int classes, or (S, K) float32 numbers.
      classes: (K,) their names; None for numbers.
      subjects: (S,) str: people, or families, which are resampled and exchanged as a whole, and
        never both learned from and tested on.
      n_inner: folds that the strength of a head is chosen by.
    """

    labels: np.ndarray
    classes: np.ndarray | None
    subjects: np.ndarray
    n_inner: int = 5

    @property
    def n_out(self) -> int:
        """Number of classes, or of columns of numbers."""
        return self.labels.shape[1] if self.classes is None else len(self.classes)

    @property
    def typical(self) -> np.ndarray:
        """(K,) shares of the classes, or the mean, of all samples.

        Those of training sets are lower for whatever the test set has more of.
        """
        if self.classes is None:
            return self.labels.mean(0)
        return np.bincount(self.labels, minlength=self.n_out) / len(self.labels)

    @property
    def metric(self) -> str:
        """The main one."""
        return "r2" if self.classes is None else "balanced_accuracy"

    def measure(self, values_SxK: np.ndarray, rows: np.ndarray | slice = slice(None)) -> dict:
        """{metric: value} of some samples, NaN where one has none."""
        labels, values = self.labels[rows], values_SxK[rows]
        everything = np.ones((len(labels), 1), np.int32)
        if self.classes is None:
            found = regression(labels, values, ("r2", "pearson"))(everything)
        else:
            guesses = values.argmax(1)
            found = classification(labels, guesses, len(self.classes), values)(everything)
        return {name: float(v[0]) for name, v in found.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Repeats:
    """Predictions of one row of the table.

    Attributes:
      values: (N, R, S, K) float32, every sample predicted in every repeat.
      folds: of each repeat.
    """

    values: np.ndarray
    folds: Sequence[Sequence[Fold]]

    @property
    def mean(self) -> np.ndarray:
        """(S, K) predictions, mean over repeats and seeds."""
        return self.values.mean((0, 1))


def score_repeats(truth: Truth, repeats: Repeats, seed: int) -> dict[str, dict[str, float | str]]:
    """Metrics of all samples, mean over repeats and seeds, with 95 % intervals.

    Returns:
      {metric: {"value", "std", "low", "high", "interval"}}: "corrected" intervals are those of
      Nadeau & Bengio, by t; where folds lack classes or are too few, or one sample is all that
      there is of a fold, "subjects" are those of resamples of people (of samples where each has
      one), for which the predictions are what they are: so it is of numbers, too. Of fewer than
      five people, "few" are those of t over people, None where they are as good as equal.
    """
    found = [[truth.measure(v) for v in of_seed] for of_seed in repeats.values]
    scores, guesses, about = {}, repeats.mean, {}
    if truth.classes is not None:
        about = {"scores_SxK": guesses, "classes": np.arange(truth.n_out)}
        guesses = guesses.argmax(1)
    resampled = score(truth.labels, guesses, seed=seed, subjects=truth.subjects, **about)
    few = len(np.unique(truth.subjects)) < FEWEST_SUBJECTS
    for name in (name for name, first in found[0][0].items() if np.isfinite(first)):
        value = float(np.nanmean([[one[name] for one in some] for some in found]))
        spread = None if few else fold_spread(*_fold_scores(truth, repeats, name))
        if spread is not None:
            kind, (std, reach) = "corrected", spread
            low, high = value - reach, value + reach
        else:
            kind, other = "few" if few else "subjects", resampled[name]
            prefix = "subject_" if "subject_low" in other else ""
            std, low, high = (other[prefix + x] for x in ("std", "low", "high"))
            if low is not None:
                low, high = (end + value - other["value"] for end in (low, high))
        if low is not None:
            least, most = BOUNDS.get(name, (0.0, 1.0))
            low, high = float(max(low, least)), float(min(high, most))
        scores[name] = {"value": value, "std": std, "low": low, "high": high, "interval": kind}
    return scores


def fold_spread(scores_J: np.ndarray, shares_J: np.ndarray) -> tuple[float, float] | None:
    """Corrected standard deviation of the mean of fold scores, and half its 95 % interval.

    Args:
      scores_J: of the folds of all repeats, NaN where a fold has none.
      shares_J: samples tested over samples learned from, of each.

    Returns:
      None where a fold has no score, there are fewer than two, or all are the same.
    """
    n = len(scores_J)
    if n < _FEWEST or not np.isfinite(scores_J).all():
        return None
    std = float(np.sqrt((1 / n + shares_J.mean()) * scores_J.var(ddof=1)))
    if std < _ROUNDING:
        return None
    return std, float(std * stats.t.ppf(0.975, n - 1))


def compare_rows(truth: Truth, a: Repeats, b: Repeats, seed: int) -> dict[str, float]:
    """How much better one row is than another on the same folds.

    Returns:
      {"difference", "low", "high", "p"} in the main metric: the corrected t-test of Nadeau & Bengio
      where every fold has a score, else over resampled people as `compare_paired`.
    """
    name = truth.metric
    scores_a, shares_J = _fold_scores(truth, a, name)
    scores_b, _ = _fold_scores(truth, b, name)
    spread = fold_spread(scores_a - scores_b, shares_J)
    if spread is None or len(np.unique(truth.subjects)) < FEWEST_SUBJECTS:
        told = [x.mean if truth.classes is None else x.mean.argmax(1) for x in (a, b)]
        return compare_paired(truth.labels, *told, truth.subjects, name, seed)
    difference = float(np.mean(scores_a - scores_b))
    std, reach = spread
    n = len(scores_a)
    p = float(2 * stats.t.sf(abs(difference) / std, n - 1))
    return {"difference": difference, "low": difference - reach, "high": difference + reach, "p": p}


def split_variance(truth: Truth, repeats: Repeats, scores: dict) -> dict[str, float | int | None]:
    """Where the spread of the main metric comes from.

    Returns:
      {"n", "seed_std", "partition_std", "sampling_std"}: with the same folds, from seed to seed
      (None of one seed); from one way of making folds to another, without what seeds add (None of
      one repeat); and of the value, as its interval has it.
    """
    found = [[truth.measure(v)[truth.metric] for v in some] for some in repeats.values]
    values_NxR = np.array(found)
    n, r = values_NxR.shape
    seed_variance = values_NxR.var(0, ddof=1).mean() if n > 1 else None
    partition = values_NxR.mean(0).var(ddof=1) - (seed_variance or 0) / n if r > 1 else None
    return {
        "n": n,
        "seed_std": None if seed_variance is None else float(np.sqrt(seed_variance)),
        "partition_std": None if partition is None else float(np.sqrt(max(partition, 0))),
        "sampling_std": scores[truth.metric]["std"],
    }


def by_site(truth: Truth, repeats: Repeats, sites: np.ndarray) -> dict[str, dict]:
    """{site: {"n", "n_subjects", "value"}} of the main metric; None where a site has none."""
    found = {}
    for site in np.unique(sites):
        rows = np.flatnonzero(sites == site)
        values = [truth.measure(v, rows)[truth.metric] for some in repeats.values for v in some]
        value = float(np.mean(values))
        if truth.classes is not None and len(np.unique(truth.labels[rows])) < 2:
            value = float("nan")  # with one class a constant guess is right
        found[str(site)] = {
            "n": len(rows),
            "n_subjects": len(set(truth.subjects[rows].tolist())),
            "value": value if np.isfinite(value) else None,
        }
    return found


def with_motion(
    truth: Truth, values_SxK: np.ndarray, motion_S: np.ndarray, people: np.ndarray | None = None
) -> dict | None:
    """Do predictions follow motion? Spearman's correlation over people.

    Args:
      people: (S,) str, where the subjects of the truth are families, whose labels may differ.

    Returns:
      {"rho", "p", "within_rho", "within_p", "class"}: of the predicted number, or of the
      probability of the class (named) where it is the strongest, for two classes the second; and
      the same with the means of the true classes taken out. p is corrected for the choice among
      classes or numbers (Bonferroni). None where motion is not known or does not vary.
    """
    people = truth.subjects if people is None else people
    names, first, person_S = np.unique(people, return_index=True, return_inverse=True)
    known = np.isfinite(motion_S)
    if known.sum() < 4 or np.ptp(motion_S[known]) == 0:
        return None
    keep = np.bincount(person_S[known], minlength=len(names)) > 0
    means = [
        _mean_by(person_S[known], x[known], len(names))[keep] for x in (*values_SxK.T, motion_S)
    ]
    *scores, motion = means
    # Of two classes one probability tells the other.
    columns = [1] if truth.classes is not None and len(scores) == 2 else range(len(scores))
    best = max(columns, key=lambda k: abs(_rho(scores[k], motion)[0]))
    rho, p = _rho(scores[best], motion)
    found = {"rho": rho, "p": min(1.0, len(columns) * p)}
    if truth.classes is not None:
        label = truth.labels[first][keep]
        parts = [x - _mean_by(label, x, len(truth.classes))[label] for x in (scores[best], motion)]
        found["within_rho"], p = _rho(*parts)
        found["within_p"] = min(1.0, len(columns) * p)
        found["class"] = str(truth.classes[best])
    return found


def _rho(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0, 1.0
    return tuple(map(float, stats.spearmanr(a, b)))


def _mean_by(place_S: np.ndarray, x_S: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(place_S, x_S, n) / np.maximum(np.bincount(place_S, minlength=n), 1)


def _fold_scores(truth: Truth, repeats: Repeats, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(J,) scores, mean over seeds, NaN where a fold lacks a class; and (J,) tested / learned.

    NaN of numbers, too: r2 of a few samples has no bound below, so folds do not show its spread.
    """
    scores, shares = [], []
    for r, folds in enumerate(repeats.folds):
        for fold in folds:
            n_classes = 0 if truth.classes is None else len(np.unique(truth.labels[fold.test]))
            whole = n_classes == truth.n_out and len(fold.test) > 1
            some = repeats.values[:, r]
            found = [truth.measure(v, fold.test)[name] for v in some] if whole else [np.nan]
            scores.append(np.mean(found))
            shares.append(len(fold.test) / len(fold.train))
    return np.array(scores), np.array(shares)
