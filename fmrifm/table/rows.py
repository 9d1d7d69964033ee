"""Runs that differ only in their seed, as rows: means, deviations, and which rows differ.

Deviations are those of single runs from the mean of their row. They are pooled over all rows with
several seeds, weighted by their degrees of freedom, since three seeds alone say little of theirs.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fmrifm.runs.config import BEFORE, HARMLESS
from fmrifm.runs.finished import Run

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


# The stores of a probe amid training do change its scores.
_HARMLESS = tuple(name for name in HARMLESS if name != "probe.")
_NO_COLUMN = {"seed", "probe.every", "run", "wait", "cache_dir"}


def field_names(runs: Iterable[Run]) -> list[str]:
    """All fields of configs, in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.config))


def differing(runs: Sequence[Run]) -> list[str]:
    """The fields of which single runs have different values, the seed always among them."""
    return [
        name
        for name in field_names(runs)
        if name == "seed" or len({repr(plain(value_of(run, name))) for run in runs}) > 1
    ]


def same_in_effect(runs: Sequence[Run]) -> list[str]:
    """The fields in which runs of a row differ though they are no seeds: they change rounding."""
    return [name for name in differing(runs) if name != "seed" and not is_column(name)]


def value_of(run: Run, name: str) -> Any:
    """What a run was asked for, or did before there was such a field."""
    return run.config.get(name, BEFORE.get(name))


def is_column(name: str) -> bool:
    return name not in _NO_COLUMN and not name.startswith(_HARMLESS)


def plain(value: Any) -> Any:
    """1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
