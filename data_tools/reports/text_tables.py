"""Tables as aligned text, CSV, Markdown and LaTeX: a list of rows, each a list of cells."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_tools.safe_text import visible

_FORMULAS = ("=", "+", "-", "@", "\t")
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|nan)", re.IGNORECASE)
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


def as_text(rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """One line per row: the first `left` columns go to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(x.ljust(w) if i < left else x.rjust(w) for i, (x, w) in enumerate(cells))


def as_csv(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    """Values separated by commas, or by another delimiter; None becomes an empty cell.

    A text that spreadsheets would take for a formula gets an apostrophe, which they do not show;
    control characters are written out.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows(map(_as_cell, row) for row in rows)
    return text.getvalue()


def _as_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = visible(value)
    is_formula = value != "-" and value.startswith(_FORMULAS) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def as_markdown(header: Sequence[Any], body: Sequence[Sequence[Any]]) -> str:
    """A table of GitHub's Markdown; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *body]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def as_latex(header: Sequence[str], body: Sequence[Sequence[str]], left: int, caption: str) -> str:
    """A table environment with booktabs.

    Args:
      header, caption: plain text.
      body: cells in LaTeX.
      left: number of columns that are aligned to the left; the others are aligned to the right.
    """
    rows = "".join(f"    {' & '.join(line)} \\\\\n" for line in body)
    return rf"""% needs \usepackage{{booktabs}}
\begin{{table}}[t]
  \centering
  \begin{{tabular}}{{{"l" * left + "r" * (len(header) - left)}}}
    \toprule
    {" & ".join(map(escape_latex, header))} \\
    \midrule
{rows}    \bottomrule
  \end{{tabular}}
  \caption{{{escape_latex(caption)}}}
\end{{table}}
"""


def escape_latex(text: str) -> str:
    """LaTeX code that shows the text as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
