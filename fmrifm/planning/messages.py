"""Messages between chips in a compiled program: of which kind, over which mesh axes, how large."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from fmrifm.planning.hlo import Operation, array_sizes

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
