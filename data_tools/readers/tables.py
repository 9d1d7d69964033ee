"""Reads tables of text: TSV as BIDS writes it, without quoting, and CSV with quoting."""

import csv
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_tools.errors import InputError, as_input_errors, check_file

# How tables write that a value is not known, in lower case.
UNKNOWN = frozenset({"", "n/a", "na", "nan"})
# Python's float() also takes 1_1 and digits of other scripts; 007 and 1e2 may well be labels.
_PLAIN = re.compile(r"-?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_rows(
    path: str | os.PathLike, *needed: str | tuple[str, ...]
) -> list[tuple[int, dict[str, str]]]:
    """Reads the rows below the header of a table: their numbers in the file, and cells by column.

    A name in .tsv means tabs and one in .csv commas; of others the header decides. Blank rows and
    columns without a name are left out.

    Args:
      needed: columns that must be there; of a tuple one of them.

    Raises:
      InputError: there is no such table, its content was not fetched, or its form is wrong.
    """
    with as_input_errors():
        data = check_file(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds bytes that are no text")
        (_, header), *rows = _split(path, text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no table ({error}): save it as UTF-8.") from error
    names = [name.strip() for name in header]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise InputError(f"{path} has two columns '{twice[0]}': remove or rename one of them.")
    for choice in needed:
        choice = (choice,) if isinstance(choice, str) else choice
        if not set(choice) & set(names):
            wanted = "' or '".join(choice)
            found = f"it has {', '.join(filter(None, names))}"
            if any(name.startswith('"') for name in names):
                found += ", in quotation marks, which such tables do not use"
            # Without a header the first line may hold what must not be shown.
            if any(to_number(name) is not None for name in names):
                found = "its first line has no names of columns"
            raise InputError(f"{path} has no column '{wanted}': {found}.")
    for number, cells in rows:
        if len(cells) != len(names):
            raise InputError(
                f"Line {number} of {path} has {len(cells)} columns and its header {len(names)}: "
                "mend it."
            )
    return [
        (number, {name: cell for name, cell in zip(names, cells, strict=True) if name})
        for number, cells in rows
    ]


def _split(path: str | os.PathLike, text: str) -> list[tuple[int, list[str]]]:
    """The numbers and cells of the lines that are not blank; refuses a table of another form."""
    lines = re.split(r"\r\n|\r|\n", text)
    head = next((line for line in lines if line.strip()), None)
    if head is None:
        raise InputError(
            f"{path} has no rows and no header, as it is empty: get it or make it again."
        )
    suffix = Path(path).suffix.lower()
    delimiter = {".tsv": "\t", ".csv": ","}.get(suffix, "\t" if "\t" in head else ",")
    if delimiter not in head and (other := [x for x in _SEPARATORS if x in head]):
        raise InputError(
            f"The columns of {path} are separated by {_SEPARATORS[other[0]]}, and its name "
            f"promises {_SEPARATORS[delimiter]}: save it with these, or rename it."
        )
    if delimiter == "\t":
        found = [(number, line.split("\t")) for number, line in enumerate(lines, 1)]
    else:
        found, last = [], 0
        reader = csv.reader((f"{line}\n" for line in lines), strict=True)
        for cells in reader:
            inside, last = lines[last : reader.line_num], reader.line_num
            # A note may go over lines; lines that could all be rows are held by a stray quote.
            if len(inside) > 1 and {line.count(",") for line in inside} == {head.count(",")}:
                raise InputError(
                    f"Line {last - len(inside) + 1} of {path} has a quotation mark that makes one "
                    f"row of {len(inside)} lines: remove it, or the line breaks."
                )
            found.append((last, cells))
    return [(number, cells) for number, cells in found if any(map(str.strip, cells))]


def to_number(text: str) -> float | None:
    """The number that a text is, with ASCII digits; None if it is none or not finite."""
    text = text.strip()
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def to_count(text: str) -> int:
    """The whole number from 0 that a text is; ValueError if it is none."""
    number = to_number(text)
    if number is None or number < 0 or number != int(number):
        raise ValueError(f"'{text}' is no whole number")
    return int(number)


def typed_values(cells: Iterable[str]) -> list[int | float | str | None]:
    """The values of a column: numbers where all that are known are plain decimals, else texts.

    "n/a" and blank cells are None.
    """
    cells = [cell.strip() for cell in cells]
    numeric = all(_PLAIN.fullmatch(cell) for cell in cells if cell.lower() not in UNKNOWN)
    return [_value(cell, numeric) for cell in cells]


def typed_rows(rows: Sequence[tuple[int, dict[str, str]]]) -> list[dict]:
    """The rows of `read_rows` with the values that `typed_values` gives for each column."""
    names = rows[0][1] if rows else ()
    columns = {name: typed_values(row[name] for _, row in rows) for name in names}
    return [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]


def _value(cell: str, numeric: bool) -> int | float | str | None:
    if cell in ("", "n/a"):
        return None
    if not numeric or not _PLAIN.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)
