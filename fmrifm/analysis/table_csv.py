"""A table for programs: a line a row, or a line a run, in full precision."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from fmrifm.analysis.table_fields import differing, value_of
from fmrifm.analysis.table_rows import Table
from fmrifm.analysis.table_words import say


def rows_as_csv(table: Table) -> str:
    """A line a row: its fields, and METRIC/mean, METRIC/std and METRIC/n in full precision."""
    figures = [f"{metric}/{x}" for metric in table.metrics for x in ("mean", "std", "n")]
    lines = [[*table.fields, "reference", *figures]]
    for row in table.rows:
        numbers = [
            x for m in table.metrics for x in (row.mean(m), _or_empty(row.std(m)), len(row.runs))
        ]
        values = (_plain(row.fields[name]) for name in table.fields)
        lines.append([*values, say(row is table.reference), *numbers])
    return _as_csv(lines)


def runs_as_csv(table: Table) -> str:
    """A line a run: all fields that differ, seed, scores, checkpoint, step and workdir."""
    names = differing(table.runs)
    lines = [["run", *names, *table.metrics, "checkpoint", "step", "workdir"]]
    for run in table.runs:
        values = (_plain(value_of(run, name)) for name in names)
        scores = (run.scores[metric] for metric in table.metrics)
        about = ("", "") if run.step is None else (run.checkpoint, run.step)
        lines.append([run.name, *values, *scores, *about, str(run.path)])
    return _as_csv(lines)


def _plain(value: Any) -> Any:
    """Numbers in full precision, all else as the other forms say it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else say(value)


def _or_empty(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _as_csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
