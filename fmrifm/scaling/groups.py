"""Which runs a law is fitted to: those that differ in one size and are alike in the others."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fmrifm.scaling.laws import FEWEST, POWER, find_levels
from fmrifm.scaling.points import Point

# What runs must share to be compared in a size; compute goes with the model and the steps. Where
# too few do, more steps may go with more frames: as many epochs for each.
_SHARED = {
    "frames": (("params", "batch_size", "steps"), ("params", "batch_size")),
    "params": (("frames", "batch_size", "steps"),),
    "flops": (("frames",),),
}
_WORDS = {
    "frames": "{} training frames",
    "params": "{} encoder parameters",
    "batch_size": "{} clips a step",
    "steps": "{} steps",
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Points of a set that differ in x.

    Attributes:
      set, x: names of the evaluation set and of the size.
      points: of the group.
      alike: what they share, as words.
    """

    set: str
    x: str
    points: list[Point]
    alike: str

    @property
    def sizes(self) -> np.ndarray:
        """(n,) of x."""
        return np.array([getattr(point, self.x) for point in self.points], float)

    @property
    def losses(self) -> np.ndarray:
        """(n,)"""
        return np.array([point.loss for point in self.points])

    def by_level(self) -> list[list[Point]]:
        """The points of each level of x, from the smallest on."""
        levels = find_levels(self.sizes)
        both = list(zip(self.points, levels, strict=True))
        return [[p for p, k in both if k == level] for level in range(levels.max() + 1)]


def find_group(points: Sequence[Point], x: str) -> Group | None:
    """The largest group of points of one set that a law in x can be fitted to.

    Largest is what has most levels of x, then most points, then the largest model (or most frames).
    Sizes within 10 % are alike, see `find_levels`.

    Returns:
      None where no group has a point with x.
    """
    points = [point for point in points if getattr(point, x) is not None]
    found = [group for names in _SHARED[x] if (group := _largest(points, x, names))]
    enough = [group for group in found if count_levels(group.points, x) >= FEWEST[POWER]]
    return next(iter([*enough, *found]), None)


def _largest(points: Sequence[Point], x: str, shared: Sequence[str]) -> Group | None:
    groups: dict[tuple, list[Point]] = {}
    for point, key in zip(points, _keys(points, shared), strict=True):
        groups.setdefault(key, []).append(point)

    def rank(group: list[Point]) -> tuple:
        size = getattr(group[0], shared[0]) or 0
        return count_levels(group, x), len(group), size

    if not groups:
        return None
    best = max(groups.values(), key=rank)
    return Group(best[0].set, x, best, _describe(best, _SHARED[x][0]))


def count_levels(points: Sequence[Point], x: str) -> int:
    """Distinct levels of a size; points that lack it share one."""
    return len(set(_keys(points, (x,))))


def _keys(points: Sequence[Point], names: Sequence[str]) -> list[tuple]:
    """(n,) level of each size named, for each point."""
    columns = []
    for name in names:
        values = np.array([getattr(point, name) or 0 for point in points], float)
        columns.append(find_levels(values))
    return list(zip(*columns, strict=True))


def _describe(points: Sequence[Point], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        values = [v for point in points if (v := getattr(point, name)) is not None]
        if values:
            low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
            parts.append(_WORDS[name].format(low if low == high else f"{low} to {high}"))
    return ", ".join(parts)
