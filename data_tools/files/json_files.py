"""Reads files of JSON that other programs, people and damaged disks have written."""

import json
import math
import os
from typing import Any

from data_tools.errors import InputError, as_input_errors, check_file


def read_json(path: str | os.PathLike, fix: str = "mend it", kind: type = dict) -> Any:
    """Reads the JSON value in a file of UTF-8; NaN and infinities are taken, as Python writes them.

    Raises:
      InputError: there is no such file, its content was not fetched, it is no JSON, or its value is
        not of the `kind`; what to do about it is `fix`.
    """
    with as_input_errors():
        data = check_file(path).read_bytes()
    return parse_json_value(data, path, fix, kind)


def parse_json_value(
    data: bytes,
    where: str | os.PathLike,
    fix: str = "mend it",
    kind: type = dict,
    nan: float | None = math.nan,
) -> Any:
    """The JSON value in bytes, as `read_json` reads it; `where` is named in errors.

    NaN and infinities, which are not JSON, become what `nan` is, if that is None.
    """
    constants = {} if nan is not None else {"parse_constant": lambda name: None}
    try:
        value = json.loads(data.decode("utf-8-sig"), **constants)
    except (ValueError, RecursionError) as error:
        # Nested deeper than Python's stack, a text raises RecursionError.
        raise InputError(f"{where} is damaged (it is no JSON, {error}): {fix}.") from error
    if not isinstance(value, kind):
        what = {dict: "object", list: "list"}.get(kind, "value of this kind")
        raise InputError(f"{where} is damaged (it holds no JSON {what}): {fix}.")
    return value
