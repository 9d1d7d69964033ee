"""The figures of all runs of a store, side by side: which runs stand out, which to look at."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.inspect.facts import is_number
from data_tools.inspect.typical import is_typical, typical_range
from data_tools.timeseries.quality import FRAME_MEASURES, QC_MEASURES, Measure

# A run is odd from so many robust standard deviations on, among at least so many runs.
_ODD, _ENOUGH_RUNS = 5.0, 8
_FIRST_RUNS = 2  # of those to look at
_RANKS = 3  # worst runs by a figure that may be among them


@dataclasses.dataclass(frozen=True)
class Column:
    """A figure of all runs.

    Attributes:
      measure: what it says.
      values: one a run, None where a run has none.
      limits: typical range, None where there is none to compare with.
      marks: one a run: "far" from typical, "odd" among the runs of the store, or "".
    """

    measure: Measure
    values: Sequence[float | None]
    limits: tuple[float, float] | None
    marks: Sequence[str]

    @functools.cached_property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @functools.cached_property
    def median(self) -> float:
        return float(np.median(self.known))

    @property
    def is_far(self) -> bool:
        """Whether the median run is far from typical."""
        return bool(self.limits) and not self.limits[0] <= self.median <= self.limits[1]

    def badness(self, run: int) -> float:
        """How far a run is on the side where runs are suspect, against the median."""
        value = self.values[run]
        if value is None:
            return 0.0
        if self.limits:
            low, high = self.limits
            return max(low - value, value - high, 0.0) / (high - low)
        difference = value - self.median
        return difference if self.measure.worse == "high" else -difference


def columns_of(
    runs: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, float]], tr: float
) -> list[Column]:
    """The figures that at least one run has, those of conversion first.

    Args:
      runs: lines of the run table.
      figures: of each run, by `quality.frame_figures`.
      tr: seconds between frames.
    """
    columns = []
    for name, measure in QC_MEASURES.items():
        found = [(run.get("qc") or {}).get(name) for run in runs]
        values = [value if is_number(value) else None for value in found]
        marks = ["odd" if odd else "" for odd in odd_runs(values, measure.worse)]
        columns.append(Column(measure, values, None, marks))
    for name, measure in FRAME_MEASURES.items():
        values = [run.get(name) for run in figures]
        far = [v is not None and is_typical(name, v, tr) is False for v in values]
        marks = ["far" if is_far else "" for is_far in far]
        columns.append(Column(measure, values, typical_range(name, tr), marks))
    return [column for column in columns if column.known]


def choose_runs(columns: Sequence[Column], n_runs: int, most: int = 8) -> dict[int, list[str]]:
    """Some runs to look at, with the reasons: the first two, and the worst by each figure.

    The worst of every figure come first, then the second and third worst, as far as there is room
    and they are worse than the median.
    """
    chosen = {run: [f"run {run + 1} of {n_runs:,}"] for run in range(min(_FIRST_RUNS, n_runs))}
    ranked = []
    for column in columns:
        if column.measure.worse or column.limits:
            order = sorted(range(n_runs), key=column.badness, reverse=True)[:_RANKS]
            ranked.append([(column, run) for run in order if column.badness(run) > 0])
    for rank in range(_RANKS):
        for column, run in (runs[rank] for runs in ranked if rank < len(runs)):
            by = "worst" if rank == 0 else "among the worst"
            reason = f"{by} by {column.measure.label}, {column.measure.text(column.values[run])}"
            if run in chosen and rank == 0:
                chosen[run].append(reason)
            elif run not in chosen and len(chosen) < most:
                chosen[run] = [reason]
    return chosen


def odd_runs(values: Sequence[float | None], worse: str) -> list[bool]:
    """Which values lie far from the others on the side where runs are suspect.

    Further than 5 robust standard deviations from the median: the median absolute deviation x
    1.4826 or, where more than half of the values are alike, the mean one x 1.2533 (Iglewicz and
    Hoaglin 1993, How to Detect and Handle Outliers). Fewer than 8 values say nothing.
    """
    known = np.array([value for value in values if value is not None], float)
    if len(known) < _ENOUGH_RUNS or not worse:
        return [False] * len(values)
    centre = float(np.median(known))
    deviation = np.abs(known - centre)
    scale = 1.4826 * np.median(deviation) or 1.2533 * deviation.mean()
    sign = 1 if worse == "high" else -1
    return [v is not None and scale > 0 and sign * (v - centre) > _ODD * scale for v in values]
