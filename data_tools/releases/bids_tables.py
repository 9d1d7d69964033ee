"""Reads the tables and sidecars of BIDS: events, participants, and the TR of a run."""

import csv
import json
import math
import os
from typing import Any

from data_tools.errors import InputError


def read_events(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a BIDS `events.tsv`: one dictionary a row, with numbers where they are numbers.

    Returns:
      Events with `onset` and `duration` in seconds from the first frame; "n/a" is None.

    Raises:
      InputError: the file is no table, or an onset or a duration is no number.
    """
    events = []
    for number, row in enumerate(read_table(path), 2):
        event = {name: table_value(text) for name, text in row.items()}
        # A duration may be unknown, an onset may not.
        if not _is_number(event.get("onset")) or not (
            event.get("duration") is None or _is_number(event["duration"])
        ):
            raise InputError(
                f"Line {number} of {path} has no onset or duration in numbers: mend it."
            )
        events.append(event)
    return events


def read_participants(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Reads a `participants.tsv`: the other columns by participant, with "sub-" left out.

    Raises:
      InputError: the file is no table, has no column participant_id, or lists one twice.
    """
    rows = read_table(path)
    if rows and "participant_id" not in rows[0]:
        raise InputError(f"{path} has no column participant_id: name the column of subjects so.")
    table = {}
    for number, row in enumerate(rows, 2):
        name = str(row.pop("participant_id")).strip().removeprefix("sub-")
        if name in table:
            # Without the name, which may have to stay in this table.
            raise InputError(f"Line {number} of {path} is of somebody listed before: leave one.")
        table[name] = {column: table_value(text) for column, text in row.items()}
    return table


def read_repetition_time(path: str | os.PathLike) -> float | None:
    """What a sidecar `*_bold.json` says of the TR, in seconds; None if it does not.

    Raises:
      InputError: the file is no JSON.
    """
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): mend it.") from error
    tr = value.get("RepetitionTime") if isinstance(value, dict) else None
    return float(tr) if _is_number(tr) else None


def read_table(path: str | os.PathLike, delimiter: str = "\t") -> list[dict[str, str]]:
    """Reads a table with a header: one dictionary a row, all values text.

    Raises:
      InputError: the file is missing or no table, or a row has another number of columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table ({error}): save it as UTF-8.") from error
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"Line {number} of {path} has another number of columns: mend it.")
    return rows


def table_value(text: str) -> float | str | None:
    """What a cell says: a number, a text, or None for "n/a"."""
    text = text.strip()
    if text in ("", "n/a"):
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    # JSON has no NaN, and an identifier such as "007" is not the number 7.
    if not math.isfinite(number) or (len(text) > 1 and text[0] == "0" and text[1].isdigit()):
        return text
    return int(number) if text.lstrip("+-").isdigit() else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
