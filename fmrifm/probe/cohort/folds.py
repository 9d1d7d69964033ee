"""Training and test sets drawn from one cohort, with no group of samples in both.

Groups are subjects, or families: whatever must not be learned from and tested on at once. Letters:
S samples, G groups.
"""

import collections
import dataclasses

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from data_tools.errors import InputError

SCHEMES = ("kfold", "subject", "site")
_QUANTILES = 4  # of numbers, which folds get equal shares of


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """A test set and what may be learned from.

    Attributes:
      train, test: places of the samples, ascending.
      name: of what was left out, where it has one.
    """

    train: np.ndarray
    test: np.ndarray
    name: str = ""


def make_folds(
    scheme: str,
    labels: np.ndarray,
    groups: np.ndarray,
    sites: np.ndarray | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> list[Fold]:
    """Folds in which every sample is tested once.

    Args:
      scheme: "kfold" deals whole groups to as many folds as asked for, the classes in equal shares
        (numbers by their quantiles), or to fewer where a class has fewer groups; "subject" leaves
        one group out at a time; "site" leaves one site out, and what else there is of its groups
        is then not learned from either.
      labels: (S,) classes, or (S, E) numbers.
      groups: (S,) str.
      sites: (S,) str, for "site".
    """
    if scheme == "kfold":
        folds = _deal(labels, groups, n_folds, seed)
    else:
        left_out = groups if scheme == "subject" else sites
        names = np.unique(left_out)
        if len(names) < 2:
            raise InputError(
                f"All samples are of one {scheme}, so none can be left out: take another "
                "splits.scheme."
            )
        tests = [np.flatnonzero(left_out == name) for name in names]
        trains = [np.flatnonzero(~np.isin(groups, groups[test])) for test in tests]
        folds = list(map(Fold, trains, tests, names.tolist()))
    for fold in folds:
        if labels.ndim == 1:
            lacking = sorted(set(labels.tolist()) - set(labels[fold.train].tolist()))
            if lacking:
                where = f"{scheme} {fold.name}" if fold.name else "a fold"
                raise InputError(
                    f"Without {where} nobody of class '{lacking[0]}' is left to learn from: take "
                    "another splits.scheme, or leave that class out."
                )
        if len(np.unique(groups[fold.train])) < 2:
            raise InputError(
                f"Without {scheme} {fold.name} fewer than two people are left to learn from: take "
                "another splits.scheme."
            )
    return folds


def inner_folds(
    train: np.ndarray, labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int
) -> list[Fold]:
    """Folds of a training set, to choose hyperparameters by; none where a class has one group only.

    Args:
      train: places of the training samples; those of the folds are among them.
      labels, groups, n_folds, seed: as in `make_folds`.
    """
    try:
        folds = make_folds("kfold", labels[train], groups[train], None, n_folds, seed)
    except InputError:
        return []
    return [Fold(train[fold.train], train[fold.test]) for fold in folds]


def nested_subsets(
    labels: np.ndarray, groups: np.ndarray, train: np.ndarray, n_groups: int, seed: int
) -> np.ndarray:
    """The training samples of some of the groups, drawn class by class; all for a large number.

    With another number and the same seed the smaller set is part of the larger.
    """
    strata = _strata(labels)[train]
    names, first, group_S = np.unique(groups[train], return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    # Round by round one of each class, so that any number of groups has them in equal shares.
    rank, counts = np.zeros(len(names)), collections.Counter()
    sizes = collections.Counter(strata[first].tolist())
    for g in order:
        stratum = strata[first[g]]
        rank[g] = (counts[stratum] + 0.5) / sizes[stratum]
        counts[stratum] += 1
    chosen = np.lexsort((order.argsort(), rank))[:n_groups]
    return train[np.isin(group_S, chosen)]


def _strata(labels: np.ndarray, n: int = _QUANTILES) -> np.ndarray:
    """(S,) int: classes, or n quantiles of the first column of numbers."""
    if labels.ndim == 1:
        return np.unique(labels, return_inverse=True)[1]
    cuts = np.quantile(labels[:, 0], np.arange(1, n) / n)
    return np.searchsorted(cuts, labels[:, 0])


def _deal(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> list[Fold]:
    names, first, group_S = np.unique(groups, return_index=True, return_inverse=True)
    counts = {"": len(names)}
    if labels.ndim == 1:
        counts = {str(k): len(set(groups[labels == k])) for k in np.unique(labels)}
    rarest = min(counts, key=counts.get)
    if counts[rarest] < 2:
        of = f" of class '{rarest}'" if rarest else ""
        raise InputError(
            f"There is one subject only{of}, who cannot be both learned from and tested on: leave "
            "that class out, or find more people."
        )
    n_folds = min(n_folds, counts[rarest])
    # Of numbers no quantile has fewer groups than there are folds.
    strata = _strata(labels, min(_QUANTILES, len(names) // n_folds))
    tested = np.empty(len(groups), int)
    if (strata == strata[first][group_S]).all():  # a trait: exact shares
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed % 2**32)
        for k, (_, test) in enumerate(folds.split(names, strata[first])):
            tested[np.isin(group_S, test)] = k
    else:
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed % 2**32)
        for k, (_, test) in enumerate(folds.split(strata, strata, groups)):
            tested[test] = k
    return [
        Fold(np.flatnonzero(tested != k), np.flatnonzero(tested == k)) for k in np.unique(tested)
    ]


def check_sites(sites: np.ndarray | None, field: str) -> None:
    """Raises InputError where the site of a sample is not known, or samples have several."""
    if sites is None:
        raise InputError(
            f"No run has a '{field}': set confounds.site, or another splits.scheme and "
            "confounds.remove."
        )
    if (sites == "").any():
        raise InputError(
            f"The {field} of {(sites == '').sum()} samples is not known: leave them out with "
            f"data.path='STORE?{field}=?*', or take another splits.scheme and confounds.remove."
        )
    if any("+" in site for site in sites.tolist()):
        raise InputError(
            f"A sample has runs of several values of '{field}', so it belongs to none: set "
            "unit=run, or leave runs out with data.path."
        )
