"""A table as Markdown and LaTeX."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from data_tools.reports.text_tables import as_csv, as_latex, as_markdown, escape_latex
from fmrifm.table.rows import (
    LIMIT,
    Table,
    differing,
    direction,
    field_names,
    same_in_effect,
    value_of,
)
from fmrifm.table.words import decimals, say, shorten, shortest_ending


def rows_as_csv(table: Table) -> str:
    """A line a row: its fields, and METRIC/mean, METRIC/std and METRIC/n in full precision."""
    figures = [f"{metric}/{x}" for metric in table.metrics for x in ("mean", "std", "n")]
    lines = [[*table.fields, "reference", *figures]]
    for row in table.rows:
        numbers = []
        for metric in table.metrics:
            std = row.std(metric)
            numbers += [row.mean(metric), None if math.isnan(std) else std, len(row.runs)]
        values = (_plain(row.fields[name]) for name in table.fields)
        lines.append([*values, say(row is table.reference), *numbers])
    return as_csv(lines)


def runs_as_csv(table: Table) -> str:
    """A line a run: all fields that differ, seed, scores, checkpoint, step and workdir."""
    names = differing(table.runs)
    lines = [["run", *names, *table.metrics, "checkpoint", "step", "workdir"]]
    for run in table.runs:
        values = (_plain(value_of(run, name)) for name in names)
        scores = (run.scores[metric] for metric in table.metrics)
        about = ("", "") if run.step is None else (run.checkpoint, run.step)
        lines.append([run.name, *values, *scores, *about, str(run.path)])
    return as_csv(lines)


def _plain(value: Any) -> Any:
    """Numbers in full precision, all else as the other forms say it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else say(value)


def metric_titles(table: Table) -> dict[str, str]:
    """At least what was scored and how: "held_out/loss"."""
    return {name: shortest_ending(name, table.metrics, "/", least=2) for name in table.metrics}


def field_columns(table: Table) -> list[tuple[str, list[str], str | None]]:
    """For each field its title, the texts of its rows, and what was cut off them (`shorten`)."""
    every = field_names(table.runs)
    return [
        (shortest_ending(name, every, "."), *shorten([row.fields[name] for row in table.rows]))
        for name in table.fields
    ]


def describe(table: Table) -> list[str]:
    """What has to be known of a table, in paragraphs."""
    counts = {len(row.runs) for row in table.rows}
    if counts == {1}:
        told = "One run a row."
    else:
        seeds = f"{counts.pop()} seeds" if len(counts) == 1 else "the seeds of a row"
        told = f"Mean ± standard deviation over {seeds}."
    if any(table.is_best(row, m) for row in table.rows for m in table.metrics):
        told += " Bold is the best mean."
    if table.checkpoint == "last":
        told += " Scores are of the last checkpoint of each run."
    elif table.checkpoint:
        told += (
            f" Scores are of the checkpoint of each run that was {table.checkpoint}; that loss "
            "chose it and is not shown."
        )
    return [" ".join([told, *_about_marks(table)]), *_about_columns(table)]


def _about_marks(table: Table) -> list[str]:
    if len(table.rows) == 1:
        return []
    pooled = {title: table.pooled(metric) for metric, title in metric_titles(table).items()}
    pooled = {title: told for title, told in pooled.items() if told[1]}
    if not pooled:
        return ["No row has several seeds, so no difference is marked."]
    counts = {n for _, n in pooled.values()}
    freedom = "degrees of freedom"
    if len(counts) == 1:
        n = counts.pop()
        freedom = f"{n} {freedom if n > 1 else 'degree of freedom'}"
    values = ", ".join(
        f"{title} {std:.2g}" + (f" ({n})" if counts else "") for title, (std, n) in pooled.items()
    )
    place = table.rows.index(table.reference)
    fields = [f"{title} = {texts[place]}" for title, texts, _ in field_columns(table)]
    named = ", ".join([*fields, table.why])
    return [
        f"* differs from the reference ({named}) by more than {LIMIT} standard deviations of a "
        f"single run, pooled over rows with several seeds ({freedom}): {values}."
    ]


def _about_columns(table: Table) -> list[str]:
    notes = []
    titles = metric_titles(table).items()
    known = ("eval/", "probe/")  # nothing is unclear without these
    if cut := [name for name, title in titles if name not in (title, *(k + title for k in known))]:
        notes.append(f"Scores in full: {', '.join(cut)}.")
    for title, _, full in field_columns(table):
        if full:
            notes.append(f"{title}: {full}, where the table shows what stands at the dots.")
    if same := same_in_effect(table.runs):
        notes.append(f"Runs also differ in {', '.join(same)}, which only changes rounding.")
    if table.left_out:
        notes.append(f"Not shown, as only some runs have it: {', '.join(table.left_out)}.")
    return notes


_ARROWS = {1: " ↑", -1: " ↓", 0: ""}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean, with its deviation where there are several seeds."""

    mean: str
    std: str
    bold: bool
    marked: bool


def table_as_markdown(table: Table) -> str:
    """The table with its note below."""
    notes = "\n\n".join(x.replace("*", r"\*") for x in describe(table))
    return f"{as_markdown(*_lines(table, _markdown_cell))}\n{notes}\n"


def table_as_latex(table: Table) -> str:
    """The table with its note in the caption."""
    header, body = _lines(table, _latex_cell)
    return as_latex(header, body, len(table.fields), " ".join(describe(table)))


def _lines(table: Table, show: Callable) -> tuple[list[str], list[list[str]]]:
    """Header and body; `show` makes text of a Cell, or of a str."""
    counts = {len(row.runs) for row in table.rows}
    columns = [(title, texts) for title, texts, _ in field_columns(table)]
    if len(counts) > 1:
        columns.append(("seeds", [str(len(row.runs)) for row in table.rows]))
    for metric, title in metric_titles(table).items():
        columns.append((title + _ARROWS[direction(metric)], _cells(table, metric)))
    body = zip(*(cells for _, cells in columns), strict=True)
    return [title for title, _ in columns], [[show(cell) for cell in line] for line in body]


def _cells(table: Table, metric: str) -> list[Cell]:
    means = [row.mean(metric) for row in table.rows]
    largest = max((abs(x) for x in means if math.isfinite(x)), default=0.0)
    digits = decimals(table.pooled(metric)[0], largest)
    return [
        Cell(
            f"{row.mean(metric):.{digits}f}",
            f"{row.std(metric):.{digits}f}" if math.isfinite(row.std(metric)) else "",
            table.is_best(row, metric),
            table.differs(row, metric),
        )
        for row in table.rows
    ]


def _markdown_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return cell.replace("*", r"\*")
    mean = f"**{cell.mean}**" if cell.bold else cell.mean
    return mean + (f" ± {cell.std}" if cell.std else "") + (r"\*" if cell.marked else "")


def _latex_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return re.sub(r"^(-?\d+(?:\.\d+)?)$", r"$\1$", escape_latex(cell))
    if not cell.mean[-1].isdigit():  # nan, inf
        return cell.mean
    mean = rf"\mathbf{{{cell.mean}}}" if cell.bold else cell.mean
    std = rf" \pm {cell.std}" if cell.std else ""
    return f"${mean}{std}{'^{*}' if cell.marked else ''}$"
