"""What a compiled program does, read from its text: messages between chips, and memory traffic.

XLA's own counts take the body of a loop once, and we scan over blocks; here each operation counts
as often as it runs. The format is that of `compiled.as_text()`.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

_FAST = "S(1)"  # memory space of arrays that do not lie in main memory
_WIDTHS = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2}
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# These move nothing: they name, group, or stand for what others do.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "copy-done",
    "slice-done", "send", "send-done", "recv", "recv-done", "async-done", "async-update",
}  # fmt: skip
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
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


class Text:
    """The computations of a program, and how often each runs in a step."""

    def __init__(self, text: str):
        self._parts: dict[str, list[Operation]] = {}
        entry, part = "", None
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                part = self._parts[header.group(2)] = []
                entry = header.group(2) if header.group(1) else entry
            elif part is not None and (operation := _read(line)):
                part.append(operation)
        self._runs: dict[str, int] = {}
        self._count(entry, 1)

    def collectives(self, axes: Mapping[str, int]) -> list[Collective]:
        """The messages of a step, the most bytes first.

        Args:
          axes: sizes of the mesh axes, the outermost first.
        """
        totals: dict[tuple, list[int]] = {}
        for operation, runs, _ in self._operations():
            kind = operation.kind.removesuffix("-start")
            if kind == "send" and (between := _MEGASCALE.search(operation.rest)):
                # Between slices the hosts exchange; the program only hands over its part.
                kind = between.group(1).lower().replace("_", "-")
                got = next(_sizes(operation.result))
                key = kind, "dcn_data", axes.get("dcn_data", 1)
            elif kind in _COLLECTIVES:
                got = _bytes_got(operation, kind)
                key = kind, *_axes_of(operation, axes)
            else:
                continue
            total = totals.setdefault(key, [0, 0])
            total[0] += got * runs
            total[1] += runs
        found = [Collective(*key, *total) for key, total in totals.items() if key[2] > 1]
        return sorted(found, key=lambda c: -c.bytes)

    def traffic(self) -> int:
        """Bytes that a step reads from and writes to a chip's main memory (HBM).

        Each operation reads its operands and writes its result; of what is sliced or updated in
        place only the slice; arrays that lie in fast memory, `S(1)` on a TPU, are free.
        """
        total = 0
        for operation, runs, types in self._operations():
            kind = operation.kind
            if kind in _FREE or "AllocateBuffer" in operation.rest:
                continue
            if kind in ("copy-start", "slice-start", "async-start"):
                # Between main and fast memory; else within main memory, there and back.
                total += runs * (1 if _FAST in operation.result else 2) * _copied(operation.result)
                continue
            total += runs * sum(self._moved(operation, types))
        return total

    def _moved(self, operation: Operation, types: Mapping[str, str]) -> Iterator[int]:
        """Bytes of the operands and of the result."""
        for place, name in enumerate(operation.operands):
            read = self._read_by(operation, place, types)
            yield _bytes(types.get(name, "")) if read is None else read
        yield self._written(operation, types)

    def _read_by(self, user: Operation, place: int, types: Mapping[str, str]) -> int | None:
        """Bytes that an operation reads of an operand; None for all of it."""
        if user.kind in ("dynamic-slice", "slice", "gather") and place == 0:
            return _bytes(user.result)
        if user.kind == "dynamic-update-slice" and place == 0:
            return 0
        part = self._parts.get(user.called("calls")) if user.kind == "fusion" else None
        if part is None:
            return None
        inside = {operation.name: operation.result for operation in part}
        parameter = next(
            (x.name for x in part if x.kind == "parameter" and x.rest.startswith(f"{place})")), ""
        )
        return self._read_of(parameter, part, inside)

    def _read_of(self, name: str, part: list[Operation], types: Mapping[str, str]) -> int | None:
        """Bytes that a computation reads of one of its results; None for all of it."""
        total = 0
        for user in part:
            for place, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.kind == "bitcast":
                    read = self._read_of(user.name, part, types)
                elif user.kind == "tuple":
                    read = 0
                else:
                    read = self._read_by(user, place, types)
                if read is None:
                    return None
                total += read
        return total

    def _written(self, operation: Operation, types: Mapping[str, str]) -> int:
        """Bytes of a result; of what is updated in place those of the update."""
        if operation.kind == "dynamic-update-slice":
            return _bytes(types.get(operation.operands[1], ""))
        part = self._parts.get(operation.called("calls")) if operation.kind == "fusion" else None
        if part is None:
            return _bytes(operation.result)
        inside = {x.name: x for x in part}
        root = next(x for x in part if x.is_root)
        shapes = {x.name: x.result for x in part}
        results = [inside[x] for x in root.operands] if root.kind == "tuple" else [root]
        total = 0
        for result in results:
            while result.kind == "bitcast" and result.operands[0] in inside:
                result = inside[result.operands[0]]
            # Where a result lies in fast memory, the caller's type says so, not the one in here.
            total += self._written(result, shapes)
        return min(total, _bytes(operation.result))

    def _operations(self) -> Iterator[tuple[Operation, int, dict[str, str]]]:
        """Operations that run by themselves, how often, and the types of their computation."""
        for name, runs in self._runs.items():
            part = self._parts[name]
            types = {operation.name: operation.result for operation in part}
            for operation in part:
                yield operation, runs, types

    def _count(self, name: str, times: int) -> None:
        self._runs[name] = self._runs.get(name, 0) + times
        for operation in self._parts.get(name, ()):
            if operation.kind == "while":
                trips = self._trips(operation)
                self._count(operation.called("body"), times * trips)
            elif operation.kind == "call":
                self._count(operation.called("to_apply"), times)
            elif operation.kind == "conditional":
                for branch in re.findall(
                    r"(?:true|false)_computation=%?([\w.\-]+)", operation.rest
                ):
                    self._count(branch, times)

    def _trips(self, loop: Operation) -> int:
        """How often the body of a loop runs; 1 where the program does not say."""
        known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest)
        if known:
            return int(known.group(1))
        condition = self._parts.get(loop.called("condition"), [])
        bounds = [
            int(operation.rest.split(")")[0])
            for operation in condition
            if operation.kind == "constant" and operation.result.startswith("s32[]")
        ]
        return bounds[0] if len(bounds) == 1 else 1


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


def _sizes(kind: str, main_only: bool = False) -> Iterator[int]:
    """Bytes of each array of a type; 0 for counters, and in fast memory too if `main_only`."""
    for found in _ARRAY.finditer(kind):
        letters, shape = found.groups()
        if main_only and _FAST in found.group() or "S(2)" in found.group():
            yield 0
            continue
        digits = re.search(r"\d+", letters.removeprefix("bf"))
        width = _WIDTHS.get(letters, int(digits.group()) / 8 if digits else 0)
        yield math.ceil(width * math.prod(int(n) for n in shape.split(",") if n))


def _bytes(kind: str) -> int:
    return sum(_sizes(kind, main_only=True))


def _copied(kind: str) -> int:
    """The array that an asynchronous copy or slice moves: one end of it may be a larger whole."""
    return min(filter(None, _sizes(kind)), default=0)


def _bytes_got(operation: Operation, kind: str) -> int:
    """Bytes of the result; a start gives its operands too."""
    sizes = list(_sizes(operation.result))
    if operation.kind.endswith("-start") and kind != "all-reduce":
        sizes = sizes[len(sizes) // 2 :] if kind != "collective-permute" else sizes[1:2]
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
