"""Shared by what reads inputs: refusals of a part, and values that must be fit for files."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from data_tools.errors import InputError


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Lets the next part of a reader go on where this part is refused."""
    with contextlib.suppress(InputError):
        yield


def check_values(value: Any) -> None:
    """What readers return is written as JSON, in UTF-8, later on."""
    json.dumps(value, allow_nan=False).encode()
