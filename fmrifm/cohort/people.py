"""Who is in a cohort: its confounds class by class, and a line for each sample.

Letters: S samples.
"""

from collections import Counter
from typing import Any

import numpy as np

from fmrifm.cohort.chance import settled
from fmrifm.cohort.confounds import Confound, association
from fmrifm.cohort.data import Cohort
from fmrifm.cohort.scores import Repeats, Truth
from fmrifm.evaluation.permutation import exchange_kind


def describe(confound: Confound, cohort: Cohort) -> dict[str, Any]:
    """A confound of all samples and of each class.

    Returns:
      {"name", "label", "p", "groups": {"all" or class: {"mean", "std", "unknown"} or {"counts"}}};
      p is of whether it goes with the label, None where that is no matter of people. There are no
      groups of what must not be shown.
    """
    labels, classes = cohort.samples.labels, cohort.classes
    parts = {"all": np.ones(len(labels), bool)}
    if classes is not None:
        parts |= {name: labels == name for name in classes.tolist()}
    place = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    subjects = cohort.samples.subjects
    is_trait = exchange_kind(settled(place, subjects), subjects) == "across"
    return {
        "name": confound.name,
        "label": confound.label,
        "p": association(confound, labels, subjects) if is_trait else None,
        "groups": {name: _summary(confound, rows) for name, rows in parts.items()}
        if confound.is_shown
        else {},
    }


def _summary(confound: Confound, rows: np.ndarray) -> dict[str, Any]:
    values = confound.values[rows]
    if not confound.is_number:
        return {"counts": dict(Counter(values.tolist()))}
    known = values[~np.isnan(values)]
    return {
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std()) if len(known) else None,
        "unknown": int(np.isnan(values).sum()),
    }


def list_people(cohort: Cohort, truth: Truth, repeats: Repeats) -> list[dict[str, Any]]:
    """What is known of each sample and may be shown, and what a row of the table says of it.

    Returns:
      {"who", "subject", "label", "predicted"} and confounds; of classes also "probability", that of
      the true class, and "right", the share of fits that hit it.
    """
    samples, values_SxK, lines = cohort.samples, repeats.mean, []
    shown = [confound for confound in cohort.confounds if confound.is_shown]
    for s in range(len(samples)):
        line = {"who": str(samples.keys[s]).strip("/"), "subject": str(samples.subjects[s])}
        if truth.classes is None:
            line |= {"label": samples.labels[s].tolist(), "predicted": values_SxK[s].tolist()}
        else:
            right = repeats.values[:, :, s].argmax(-1) == truth.labels[s]
            line |= {
                "label": str(samples.labels[s]),
                "predicted": str(truth.classes[values_SxK[s].argmax()]),
                "probability": float(values_SxK[s, truth.labels[s]]),
                "right": float(right.mean()),
            }
        lines.append(line | {c.name: _plain(c, s) for c in shown})
    return lines


def _plain(confound: Confound, s: int) -> float | str | None:
    value = confound.values[s]
    if confound.is_number:
        return None if np.isnan(value) else float(value)
    return str(value) or None
