"""JSON in the files of a store, and in those of a store that is being written."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes


def parse_json(
    text: str | bytes, where: Path | str, fix: str = "copy or make its store again"
) -> dict[str, Any]:
    """A JSON object in a file of ours; InputError with the fix if there is none, or a NaN in it."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged ({error}): {fix}.") from error
    return value


def to_json(value: Any, what: str, indent: int | None = None) -> bytes:
    """One JSON text with sorted keys and a newline at its end; NumPy values become plain ones.

    Raises:
      InputError: `what` holds NaN, infinity or something that JSON cannot say.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} values are not supported")

    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, indent=indent, default=plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} has a field that JSON cannot hold: {error}.") from error
    return text.encode() + b"\n"


def write_note(path: str | os.PathLike, value: dict[str, Any], what: str) -> None:
    """Publishes a JSON object with its checksum on a second line."""
    text = to_json(value, what)
    write_bytes(path, text + b"%d\n" % zlib.crc32(text))


def read_note(path: Path) -> dict[str, Any]:
    """The object of `write_note`; earlier versions wrote notes without a checksum.

    Raises:
      InputError: it is damaged.
    """
    text, newline, checksum = path.read_bytes().partition(b"\n")
    if checksum and checksum != b"%d\n" % zlib.crc32(text + newline):
        raise InputError(f"{path} is damaged: run the command that made it again.")
    return parse_json(text, path)
