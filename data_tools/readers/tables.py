"""Reads tables of text: TSV and CSV with a header."""

import csv
import os
from pathlib import Path

from data_tools.errors import InputError, as_input_errors


def read_lines(path: str | os.PathLike, delimiter: str) -> list[tuple[int, list[str]]]:
    """Reads the lines of a table that are not empty: their numbers in the file, and their cells.

    Raises:
      InputError: the file is missing or no table, or a line has another number of columns than the
        first.
    """
    try:
        with as_input_errors(), open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table ({error}): save it as UTF-8.") from error
    for number, cells in lines:
        if len(cells) != len(lines[0][1]):
            raise InputError(
                f"Line {number} of {path} has {len(cells)} columns and its header "
                f"{len(lines[0][1])}: mend it."
            )
    return lines


def read_rows(
    path: str | os.PathLike, delimiter: str | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Reads the rows below the header of a table: their numbers in the file, and cells by column.

    The delimiter is by default a tab for names that end in .tsv, and a comma for others.
    """
    if delimiter is None:
        delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    lines = read_lines(path, delimiter)
    return [(n, dict(zip(lines[0][1], cells, strict=True))) for n, cells in lines[1:]]


def read_table(path: str | os.PathLike, delimiter: str | None = None) -> list[dict[str, str]]:
    """Reads the rows of a table as `read_rows` does, without their numbers."""
    return [row for _, row in read_rows(path, delimiter)]
