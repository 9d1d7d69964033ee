"""The text of a compiled program (`compiled.as_text()`): its operations, and the bytes of types."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

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


_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')

# On a TPU, a message that goes on beside other work is written again in each of these fusions.
_GOES_ON = re.compile(r'"async_collective_fusion_config":\{"flag_end":"\d')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Messages of one kind over some mesh axes.

    Attributes:
      op: such as "all-gather".
      axis: the mesh axes, joined by "+"; "?" where groups are no axes.
      size: chips that take part in each.
      bytes: what each chip gets of all of them in a step.
      count: how many of them run in a step.
    """

    op: str
    axis: str
    size: int
    bytes: int
    count: int

    @property
    def sent(self) -> float:
        """Bytes that each chip sends, by a ring over the chips."""
        share = (self.size - 1) / self.size
        factor = {"all-reduce": 2 * share, "reduce-scatter": self.size - 1}
        return self.bytes * (1 if self.op == "collective-permute" else factor.get(self.op, share))


def read_message(operation: Operation, axes: Mapping[str, int]) -> tuple[str, str, int, int] | None:
    """(kind, axis, size, bytes) of a message; None of what is none.

    Args:
      axes: sizes of the mesh axes, the outermost first.
    """
    kind = operation.kind.removesuffix("-start")
    if kind == "send" and (between := _MEGASCALE.search(operation.rest)):
        # Between slices the hosts exchange; the program only hands over its part.
        kind = between.group(1).lower().replace("_", "-")
        return kind, "dcn_data", axes.get("dcn_data", 1), next(array_sizes(operation.result))
    if kind in _KINDS and not _GOES_ON.search(operation.rest):
        return kind, *_axes_of(operation, axes), _bytes_got(operation, kind)
    return None


def _bytes_got(operation: Operation, kind: str) -> int:
    """Bytes of the result; a start gives its operands too."""
    sizes = list(array_sizes(operation.result))
    if operation.kind.endswith("-start") and kind != "all-reduce":
        arrays = [size for size in sizes if size > 4]  # the rest are counters
        sizes = arrays[len(arrays) // 2 :]
    return sum(sizes)


def _axes_of(operation: Operation, axes: Mapping[str, int]) -> tuple[str, int]:
    """The mesh axes whose chips exchange something, and how many chips do."""
    names, sizes = list(axes), list(axes.values())
    n = math.prod(sizes)
    groups = _groups(operation.rest, n)
    if groups is None:
        return "?", n
    if len(groups[0]) < 2:
        return "", 1
    places = np.unravel_index(groups, sizes)
    varies = [k for k, place in enumerate(places) if (place != place[:, :1]).any()]
    size = math.prod(sizes[k] for k in varies)
    axis = "+".join(names[k] for k in varies)
    return (
        (axis, size)
        if size == groups.shape[1] or operation.kind.startswith("collective-permute")
        else ("?", groups.shape[1])
    )


def _groups(rest: str, n: int) -> np.ndarray | None:
    """(groups, size) the chips that exchange something, by their place in the mesh."""
    if found := re.search(r"source_target_pairs=\{(\{.*?\})\}", rest):
        return np.array([[int(x) for x in g] for g in re.findall(r"\{(\d+),(\d+)\}", found[1])])
    if found := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\) )?\s*\{([^}]*)\}", rest
    ):
        shape = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", found[1])}
        chosen = [k for k, name in enumerate(shape) if f"'{name}'" in found[3]]
        ids = _ids(found[2] or f"[{n}]").reshape(list(shape.values()))
        size = math.prod(list(shape.values())[k] for k in chosen)
        return np.moveaxis(ids, chosen, range(-len(chosen), 0)).reshape(-1, size)
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _ids(found[2]).reshape([int(x) for x in found[1].split(",")])
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return np.array(
            [[int(x) for x in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", found[1])]
        )
    return np.arange(n)[None] if "replica_groups={}" in rest else None


def _ids(text: str) -> np.ndarray:
    """The numbers from 0 up in the order of "[2,4]T(1,0)": in rows of that shape, transposed."""
    shape, _, order = text.partition("T")
    dims, axes = ([int(x) for x in re.findall(r"\d+", part)] for part in (shape, order))
    ids = np.arange(math.prod(dims)).reshape(dims)
    return ids.transpose(axes) if axes else ids
