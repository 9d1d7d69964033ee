"""Reads the JSON files that BIDS keeps beside images and tables."""

import json
import os
from pathlib import Path
from typing import Any

from data_tools.errors import InputError, as_input_errors


def read_sidecar(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the JSON object in a file, in which other programs may have written NaN."""
    try:
        with as_input_errors():
            value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): mend it.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: mend it.")
    return value
