"""Tables in Markdown."""

from collections.abc import Sequence
from typing import Any


def markdown_table(header: Sequence[Any], body: Sequence[Sequence[Any]]) -> str:
    """A line for the header, one of dashes, and one for each row; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *body]
    cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
