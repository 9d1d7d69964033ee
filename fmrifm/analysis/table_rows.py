"""Runs that differ only in their seed, as rows: means, deviations, and which rows differ.

Deviations are those of single runs from the mean of their row. They are pooled over all rows with
several seeds, weighted by their degrees of freedom, since three seeds alone say little of theirs.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from fmrifm.analysis.runs import Run

LIMIT = 3  # deviations
LOWER = ("loss",)
HIGHER = (
    *("accuracy", "balanced_accuracy", "f1_macro", "auroc"),
    *("r2", "pearson", "cosine", "top1", "top5"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed.

    Attributes:
      fields: what they were asked for, without what changes no numbers.
    """

    fields: dict[str, Any]
    runs: tuple[Run, ...]

    def values(self, metric: str) -> np.ndarray:
        """(n,) float, one of each run."""
        return np.array([run.scores[metric] for run in self.runs], float)

    def mean(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def std(self, metric: str) -> float:
        """Of single runs, with n - 1 in the denominator; NaN of one."""
        return float(self.values(metric).std(ddof=1)) if len(self.runs) > 1 else math.nan


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows, and what is shown of them.

    Attributes:
      fields: by which rows differ.
      metrics: names of scores that every run has.
      left_out: scores that only some runs have.
      reference: the row that others are compared with.
      why: how it was chosen.
      checkpoint: whose scores these are; "" for probes.
    """

    rows: list[Row]
    fields: list[str]
    metrics: list[str]
    left_out: list[str]
    reference: Row
    why: str
    checkpoint: str

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.runs]

    def pooled(self, metric: str) -> tuple[float, int]:
        """Standard deviation of a single run, and its degrees of freedom; (NaN, 0) of none."""
        rows = [row for row in self.rows if math.isfinite(row.std(metric))]
        freedom = sum(len(row.runs) - 1 for row in rows)
        squares = sum((len(row.runs) - 1) * row.std(metric) ** 2 for row in rows)
        return (math.sqrt(squares / freedom), freedom) if freedom else (math.nan, 0)

    def differs(self, row: Row, metric: str) -> bool:
        """Whether a row's mean is further from the reference's than so many deviations."""
        distance = abs(row.mean(metric) - self.reference.mean(metric))
        return distance > LIMIT * self.pooled(metric)[0]

    def is_best(self, row: Row, metric: str) -> bool:
        means = [x.mean(metric) * direction(metric) for x in self.rows]
        mine = row.mean(metric) * direction(metric)
        return len(means) > 1 and bool(direction(metric)) and mine == np.nanmax([*means, -np.inf])


def direction(metric: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither is."""
    last = metric.rsplit("/", 1)[-1]
    return (last in HIGHER) - (last in LOWER)
