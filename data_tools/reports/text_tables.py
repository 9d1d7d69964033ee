"""Tables as aligned text, CSV, Markdown and LaTeX: a list of rows, each a list of cells."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

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
    """Values separated by commas, or by another delimiter; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
