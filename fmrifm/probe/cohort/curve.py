"""Learning curves: how a score grows with the people that are learned from."""

from collections.abc import Sequence

import joblib
import numpy as np
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.probe.cohort.cohort_rows import Row
from fmrifm.probe.cohort.cross_fit import cross_fit
from fmrifm.probe.cohort.folds import Fold, nested_subsets
from fmrifm.probe.cohort.scores import Truth

_REPEATS = 3


def learning_curve(
    row: Row,
    truth: Truth,
    folds: Sequence[Sequence[Fold]],
    shares: Sequence[float],
    seed: int,
) -> list[dict[str, float]]:
    """The main metric on the same test samples, by how many groups are learned from.

    A smaller set is part of the larger ones; classes are in equal shares.

    Args:
      row, truth: what is fitted, and to what.
      folds: of each repeat; three repeats at most are taken.
      shares: of the groups of each training set; all of them are added.
      seed: of which groups, and of the inner folds.

    Returns:
      {"n_subjects", "value", "low", "high"} by rising number of groups: means over the repeats, and
      the least and the most of them. Shares in which a class gets lost are left out.
    """
    work = [
        joblib.delayed(_point)(row, truth, some, share, seed, r)
        for share in sorted({*shares, 1.0})
        for r, some in enumerate(folds[:_REPEATS])
    ]
    found = joblib.Parallel(joblib.cpu_count(), return_as="generator")(work)
    bar = tqdm(found, f"learning curve of {row.name}", total=len(work), unit="fit")
    points, n = list(bar), len(folds[:_REPEATS])
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


def _point(
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
