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

    Labels are exchanged across subjects where each has one, else within them. Arrangements that
    cannot be dealt into folds are left out.

    Args:
      x_SxD, question, prepare, seed: as for `cross_fit`.
      truth: the labels and whose they are.
      deal: makes folds of labels.
      n: arrangements.
      name: for the progress bar.
    """
    first, place_S = distinct_rows(truth.labels)
    drawn = exchange(place_S, truth.subjects, n, np.random.default_rng(seed))
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


def _score(x_SxD, question: Question, truth: Truth, deal: Deal, prepare, seed: int) -> float:
    try:
        folds = deal(question.targets)
    except InputError:
        return float("nan")
    values, _ = cross_fit(x_SxD, question, folds, prepare, seed)
    return dataclasses.replace(truth, labels=question.targets).measure(values)[truth.metric]
