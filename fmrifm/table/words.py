"""How a table says fields, values and numbers: as short as they can be told apart."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

_LONG = 16  # characters of a value that is not shortened


def say(value: Any) -> str:
    """A value of a config as text."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"\.0$|(?<=e-)0+", "", repr(value))
    if isinstance(value, list | tuple):
        return ",".join(map(say, value))
    return str(value)


def order(value: Any) -> tuple:
    """Sorts values: none, numbers, then text, with the numbers inside it as numbers."""
    if value is None:
        return (0,)
    if isinstance(value, bool | int | float):
        return 1, float(value)
    parts = re.split(r"(\d+)", say(value))
    return 2, [int(x) if x.isdecimal() else x for x in parts]


def shortest_ending(name: str, names: Iterable[str], separator: str, least: int = 1) -> str:
    """The fewest last parts of a name, at least so many, that are an ending of no other."""
    parts, others = name.split(separator), [x for x in names if x != name]
    for count in range(least, len(parts)):
        end = separator.join(parts[-count:])
        if not any(f"{separator}{x}".endswith(f"{separator}{end}") for x in others):
            return end
    return name


def shorten(values: Sequence[Any]) -> tuple[list[str], str | None]:
    """Values as text, without what all long ones share.

    Returns:
      The texts, and how the long ones read in full, with … for what differs; None where nothing
      was cut.
    """
    texts = [say(value) for value in values]
    long = {text for value, text in zip(values, texts, strict=True) if isinstance(value, str)}
    if max(map(len, long), default=0) <= _LONG:
        return texts, None
    parts = {text: re.findall(r"[A-Za-z0-9.*]+|[^A-Za-z0-9.*]", text) for text in long}
    spare = min(map(len, parts.values())) - 1  # something of each has to stay
    begin = os.path.commonprefix(list(parts.values()))[: max(spare, 0)]
    ends = [x[len(begin) :][::-1] for x in parts.values()]
    end = os.path.commonprefix(ends)[: max(spare - len(begin), 0)][::-1]
    if not begin + end:
        return texts, None
    short = {text: "".join(x[len(begin) : len(x) - len(end)]) for text, x in parts.items()}
    return [short.get(text, text) for text in texts], f"{''.join(begin)}…{''.join(end)}"


def decimals(spread: float, largest: float) -> int:
    """Digits after the point that show two digits of a deviation.

    Args:
      spread: the deviation; where it is 0 or unknown, four digits of the largest value are shown.
      largest: of the values that are shown.
    """
    known = math.isfinite(spread) and spread > 0
    size, digits = (spread, 2) if known else (abs(largest), 4)
    if not math.isfinite(size) or size == 0:
        return digits
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), 8)
