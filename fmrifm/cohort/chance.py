"""What a cohort's analysis finds where there is nothing: all of it again, with exchanged labels.

Letters: S samples, D columns, N arrangements of the labels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import joblib
import numpy as np
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.cohort.cross_fit import Prepare, Question, cross_fit
from fmrifm.cohort.folds import Fold
from fmrifm.cohort.scores import Truth
from fmrifm.evaluation.metrics import distinct_rows
from fmrifm.evaluation.permutation import exchange

Deal = Callable[[np.ndarray], list[Fold]]  # folds of labels


def permuted_scores(
    x_SxD: np.ndarray,
    question: Question,
    truth: Truth,
    deal: Deal,
    prepare: Sequence[Prepare],
    n: int,
    seed: int,
    name: str,
) -> np.ndarray:
    """(N,) main metric of one repeat for arrangements of the labels, folds and choices made anew.

    Where most groups have one label, whole groups exchange theirs (of a group with several, the
    commonest counts); else labels are exchanged within groups. Arrangements that cannot be dealt
    into folds are left out.

    Args:
      x_SxD, question, prepare, seed: as for `cross_fit`.
      truth: the labels and whose they are.
      deal: makes folds of labels.
      n: arrangements.
      name: for the progress bar.
    """
    first, place_S = distinct_rows(truth.labels)
    drawn = exchange(
        settled(place_S, truth.subjects), truth.subjects, n, np.random.default_rng(seed)
    )
    work = (
        joblib.delayed(_score)(
            x_SxD, dataclasses.replace(question, targets=truth.labels[first[places]]), truth,
            deal, prepare, seed + k,
        )
        for k, places in enumerate(drawn)
    )  # fmt: skip
    found = joblib.Parallel(joblib.cpu_count(), return_as="generator")(work)
    scores = np.array(list(tqdm(found, f"chance of {name}", total=n, unit="labelling")))
    return scores[np.isfinite(scores)]


def settled(label_S: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(S,) int labels, the commonest of its group for each where most groups have one only."""
    group_S = np.unique(groups, return_inverse=True)[1]
    counts_GxK = np.zeros((group_S.max() + 1, label_S.max() + 1), int)
    np.add.at(counts_GxK, (group_S, label_S), 1)
    several = (counts_GxK > 0).sum(1) > 1
    return label_S if several.mean() > 0.5 else counts_GxK.argmax(1)[group_S]


def _score(x_SxD, question: Question, truth: Truth, deal: Deal, prepare, seed: int) -> float:
    try:
        values, _ = cross_fit(x_SxD, question, deal(question.targets), prepare, seed)
    except InputError:
        return float("nan")
    return dataclasses.replace(truth, labels=question.targets).measure(values)[truth.metric]
