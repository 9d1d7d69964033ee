"""A table as Markdown and LaTeX."""

import dataclasses
import math
import re
from collections.abc import Callable

from fmrifm.analysis.table_note import describe, field_columns, field_titles, metric_titles
from fmrifm.analysis.table_rows import Table, direction
from fmrifm.analysis.table_words import decimals
from fmrifm.evaluation.markdown import markdown_table

_ARROWS = {1: " ↑", -1: " ↓", 0: ""}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "*": "$*$",
    "±": r"$\pm$",
    "…": r"\ldots{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean, with its deviation where there are several seeds."""

    mean: str
    std: str
    bold: bool
    marked: bool


def as_markdown(table: Table) -> str:
    """The table with its note below."""
    header, body = _lines(table, _markdown_cell)
    return (
        markdown_table(header, body)
        + "\n"
        + "\n\n".join(x.replace("*", r"\*") for x in describe(table))
        + "\n"
    )


def as_latex(table: Table) -> str:
    """A table environment with booktabs, the note in its caption."""
    header, body = _lines(table, _latex_cell)
    aligned = "l" * len(table.fields) + "r" * (len(header) - len(table.fields))
    rows = [" & ".join(line) + r" \\" for line in body]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \begin{{tabular}}{{{aligned}}}",
            r"    \toprule",
            rf"    {' & '.join(map(escape, header))} \\",
            r"    \midrule",
            *(f"    {row}" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            rf"  \caption{{{escape(' '.join(describe(table)))}}}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _lines(table: Table, show: Callable) -> tuple[list[str], list[list[str]]]:
    """Header and body; `show` makes text of a Cell, or of a str."""
    counts = {len(row.runs) for row in table.rows}
    metrics = [
        title + _ARROWS[direction(metric)]
        for title, metric in zip(metric_titles(table), table.metrics, strict=True)
    ]
    columns = [texts for texts, _ in field_columns(table)]
    if len(counts) > 1:
        columns.append([str(len(row.runs)) for row in table.rows])
    columns = [[show(text) for text in texts] for texts in columns]
    columns += [[show(cell) for cell in _cells(table, metric)] for metric in table.metrics]
    header = [*field_titles(table), *(["seeds"] if len(counts) > 1 else []), *metrics]
    return header, [list(line) for line in zip(*columns, strict=True)]


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
        return re.sub(r"^(-?\d+(?:\.\d+)?)$", r"$\1$", escape(cell))
    if not cell.mean[-1].isdigit():  # nan, inf
        return cell.mean
    mean = rf"\mathbf{{{cell.mean}}}" if cell.bold else cell.mean
    std = rf" \pm {cell.std}" if cell.std else ""
    return f"${mean}{std}{'^{*}' if cell.marked else ''}$"
