"""The text of a compiled program (`compiled.as_text()`): its operations, and the bytes of types."""

import dataclasses
import math
import re
from collections.abc import Iterator

FAST = "S(1)"  # memory space of arrays that do not lie in main memory
_WIDTHS = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2}
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](?:\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A line of the program.

    Attributes:
      kind: such as "fusion" or "all-reduce".
      result: its type as text.
      operands: names of the operations whose results it takes.
      rest: what follows the operands.
    """

    name: str
    kind: str
    result: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    def called(self, word: str) -> str:
        """The computation that an attribute names, or ""."""
        found = re.search(rf"\b{word}=%?([\w.\-]+)", self.rest)
        return found.group(1) if found else ""


def read_computations(text: str) -> tuple[str, dict[str, list[Operation]]]:
    """The name of the computation that a program begins with, and all of its computations."""
    parts: dict[str, list[Operation]] = {}
    entry, part = "", None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            part = parts[header.group(2)] = []
            entry = header.group(2) if header.group(1) else entry
        elif part is not None and (operation := _read(line)):
            part.append(operation)
    return entry, parts


def array_sizes(kind: str, main_only: bool = False) -> Iterator[int]:
    """Bytes of each array of a type; 0 for counters, and in fast memory too if `main_only`."""
    for found in _ARRAY.finditer(kind):
        letters, shape = found.groups()
        if main_only and FAST in found.group() or "S(2)" in found.group():
            yield 0
            continue
        digits = re.search(r"\d+", letters.removeprefix("bf"))
        width = _WIDTHS.get(letters, int(digits.group()) / 8 if digits else 0)
        yield math.ceil(width * math.prod(int(n) for n in shape.split(",") if n))


def main_bytes(kind: str) -> int:
    """Bytes of the arrays of a type that lie in main memory."""
    return sum(array_sizes(kind, main_only=True))


def _read(line: str) -> Operation | None:
    """An operation from its line."""
    found = _NAME.match(line)
    if not found:
        return None
    rest = line[found.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    kind, opening, _ = rest.partition("(")
    if not opening:
        return None
    end = _closing(rest, len(kind))
    inside = rest[len(kind) + 1 : end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    rest = inside + ")" + rest[end + 1 :] if not operands else rest[end + 1 :]
    return Operation(found.group(1), kind, result, operands, rest, line.lstrip().startswith("ROOT"))


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)
