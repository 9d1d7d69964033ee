"""What a compiled program does, read from its text: messages between chips, and memory traffic.

XLA's own counts take the body of a loop once, and we scan over blocks; here each operation counts
as often as it runs. The format is that of `compiled.as_text()`.
"""

import re
from collections.abc import Iterator, Mapping

from fmrifm.plan.hlo import (
    FAST,
    Collective,
    Operation,
    array_sizes,
    main_bytes,
    read_computations,
    read_message,
)

# These move nothing: they name, group, or stand for what others do.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier",
    "send", "recv", "async-start", "async-update",
}  # fmt: skip


class CompiledProgram:
    """The computations of a program, and how often each runs in a step."""

    def __init__(self, text: str):
        entry, self._parts = read_computations(text)
        self._runs: dict[str, int] = {}
        self._fused: dict[str, int] = {}
        self._count(entry, 1, self._runs)

    def collectives(self, axes: Mapping[str, int]) -> list[Collective]:
        """The messages of a step, the most bytes first.

        Args:
          axes: sizes of the mesh axes, the outermost first.
        """
        totals: dict[tuple, list[int]] = {}
        for operation, runs, _ in self._operations({**self._runs, **self._fused}):
            if message := read_message(operation, axes):
                total = totals.setdefault(message[:3], [0, 0])
                total[0] += message[3] * runs
                total[1] += runs
        found = [Collective(*key, *total) for key, total in totals.items() if key[2] > 1]
        return sorted(found, key=lambda c: -c.bytes)

    def traffic(self) -> int:
        """Bytes that a step reads from and writes to a chip's main memory (HBM).

        Each operation reads its operands and writes its result; of what is sliced or updated in
        place only the slice; arrays that lie in fast memory, `S(1)` on a TPU, are free.
        """
        total = 0
        for operation, runs, types in self._operations(self._runs):
            kind = operation.kind
            if kind in _FREE or kind.endswith("-done") or "AllocateBuffer" in operation.rest:
                continue
            if kind in ("copy-start", "slice-start"):
                # One end of the copy may be a larger whole; the smaller end is what moves.
                moved = min(filter(None, array_sizes(operation.result)), default=0)
                # Between main and fast memory; else within main memory, there and back.
                total += runs * (1 if FAST in operation.result else 2) * moved
                continue
            if kind.endswith("-start"):  # its result has its operands too
                total += runs * main_bytes(operation.result)
                continue
            for place, name in enumerate(operation.operands):
                whole, read = main_bytes(types.get(name, "")), self._read_by(operation, place)
                total += runs * (whole if read is None else min(whole, read))
            total += runs * self._written(operation, types)
        return total

    def _read_by(self, user: Operation, place: int) -> int | None:
        """Bytes that an operation reads of an operand; None for all of it."""
        if user.kind in ("dynamic-slice", "slice", "gather") and place == 0:
            return main_bytes(user.result)
        if user.kind == "dynamic-update-slice" and place == 0:
            return 0
        part = self._parts.get(user.called("calls")) if user.kind == "fusion" else None
        if part is None:
            return None
        parameters = (x for x in part if x.kind == "parameter")
        names = (x.name for x in parameters if x.rest.startswith(f"{place})"))
        return self._read_of(next(names, ""), part)

    def _read_of(self, name: str, part: list[Operation]) -> int | None:
        """Bytes that a computation reads of one of its results; None for all of it."""
        total = 0
        for user in part:
            for place, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.kind == "bitcast":
                    read = self._read_of(user.name, part)
                elif user.kind == "tuple":
                    read = 0
                else:
                    read = self._read_by(user, place)
                if read is None:
                    return None
                total += read
        return total

    def _written(self, operation: Operation, types: Mapping[str, str]) -> int:
        """Bytes of a result; of what is updated in place those of the update."""
        if operation.kind == "dynamic-update-slice":
            return main_bytes(types.get(operation.operands[1], ""))
        part = self._parts.get(operation.called("calls")) if operation.kind == "fusion" else None
        if part is None:
            return main_bytes(operation.result)
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
        return min(total, main_bytes(operation.result))

    def _operations(
        self, computations: Mapping[str, int]
    ) -> Iterator[tuple[Operation, int, dict[str, str]]]:
        """Operations of computations, how often they run, and the types of their computation."""
        for name, runs in computations.items():
            part = self._parts[name]
            types = {operation.name: operation.result for operation in part}
            for operation in part:
                yield operation, runs, types

    def _count(self, name: str, times: int, runs: dict[str, int]) -> None:
        """Notes how often a computation runs, and those that it starts."""
        if name not in self._parts:
            return
        runs[name] = runs.get(name, 0) + times
        for operation in self._parts[name]:
            if operation.kind == "while":
                self._count(operation.called("body"), times * self._trips(operation), runs)
            elif operation.kind == "call":
                self._count(operation.called("to_apply"), times, runs)
            elif operation.kind == "async-start":  # what it starts counts, not the starting
                self._count(operation.called("calls"), times, runs)
            elif operation.kind == "fusion":  # of which only messages count
                self._count(operation.called("calls"), times, self._fused)
            elif operation.kind == "conditional":
                named = re.findall(r"computations?=(\{[^}]*\}|[^,]*)", operation.rest)
                for branch in re.findall(r"[\w.\-]+", " ".join(named)):
                    self._count(branch, times, runs)

    def _trips(self, loop: Operation) -> int:
        """How often the body of a loop runs; 1 where the program does not say."""
        known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest)
        if known:
            return int(known.group(1))
        condition = {x.name: x for x in self._parts.get(loop.called("condition"), [])}
        bounds = [x for x in condition.values() if _integer(x) is not None]
        if len(bounds) != 1:
            return 1
        counters = [x for x in condition.values() if x.kind == "get-tuple-element"]
        place = int(re.search(r"index=(\d+)", counters[0].rest)[1]) if len(counters) == 1 else None
        return -(-_integer(bounds[0]) // self._stride(loop.called("body"), place))

    def _stride(self, body: str, place: int | None) -> int:
        """What the body of a loop adds to the counter at a place of its tuple; 1 if not found.

        Products with weights in parts, which the compiler loops over, take two parts at a time.
        """
        inside = {x.name: x for x in self._parts.get(body, [])}
        root = next((x for x in inside.values() if x.is_root), None)
        if root is None or place is None or place >= len(root.operands):
            return 1
        step = inside.get(root.operands[place])
        while step is not None and step.kind in ("copy", "bitcast"):
            step = inside.get(step.operands[0])
        if step is None or step.kind != "add":
            return 1
        found = [_integer(inside[x]) for x in step.operands if x in inside]
        return next((x for x in found if x), 1)


def _integer(operation: Operation) -> int | None:
    """The value of a constant that is a whole number."""
    if operation.kind != "constant" or not re.match(r"[su]32\[\]", operation.result):
        return None
    return int(operation.rest.split(")")[0])
