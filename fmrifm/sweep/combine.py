"""How sweep files say which points there are.

A sweep is a list of points, and a point a dictionary of overrides of config fields:

    product(values("optim.lr", 3e-4, 1e-3), values("seed", 0, 1, 2))           six points
    zipped(values("model.size", "d3", "d6"), values("optim.lr", 1e-3, 5e-4))   two points
    chain(product(...), [{"seed": 7}])                                         one after the other
    sample(20, seed=0, **{"optim.lr": log_uniform(1e-4, 1e-2)})                20 random points

The entry "name" of a point is no field: it names what the dictionary sets, where the values
themselves would make a long name.
"""

import dataclasses
import hashlib
import math
import random
import re
from collections.abc import Iterable
from typing import Any

from data_tools.errors import InputError
from fmrifm.runs.config import flatten

Point = dict[str, Any]
NAME = "name"
_LONGEST = 24  # characters of a value in a name


def values(field: str, *choices: Any) -> list[Point]:
    """A point for each value of a field."""
    return [{field: value} for value in choices]


def product(*sweeps: Iterable[Point]) -> list[Point]:
    """Each point of each sweep with each of the others; the last sweep changes fastest.

    Raises:
      InputError: two sweeps set one field.
    """
    points: list[Point] = [{}]
    for sweep in map(list, sweeps):
        points = [_merge(a, b) for a in points for b in sweep]
    return points


def zipped(*sweeps: Iterable[Point]) -> list[Point]:
    """The first points of all sweeps as one, the second ones, and so on.

    Raises:
      InputError: the sweeps differ in length, or two set one field.
    """
    columns = [list(sweep) for sweep in sweeps]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise InputError(f"zipped() got sweeps of {lengths} points: give them equal lengths.")
    points = []
    for row in zip(*columns, strict=True):
        points += product(*([point] for point in row))
    return points


def chain(*sweeps: Iterable[Point]) -> list[Point]:
    """The points of one sweep after those of another; what is there already comes once."""
    points: list[Point] = []
    for sweep in sweeps:
        points += [point for point in sweep if point not in points]
    return points


@dataclasses.dataclass(frozen=True)
class uniform:  # noqa: N801  (reads as a word in sweep files)
    """Numbers between low and high, all as likely."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float:
        return _round(rng.uniform(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class log_uniform:  # noqa: N801
    """Positive numbers between low and high whose logarithms are all as likely."""

    low: float
    high: float

    def __post_init__(self):
        if not 0 < self.low <= self.high:
            raise InputError(f"log_uniform({self.low}, {self.high}) needs 0 < low <= high.")

    def draw(self, rng: random.Random) -> float:
        return _round(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))


def sample(count: int, seed: int = 0, **fields: Any) -> list[Point]:
    """Random points.

    Args:
      count: how many; more of them begin with the same ones.
      seed: of the draw.
      fields: field -> `uniform`, `log_uniform`, or a list of choices. Numbers are rounded to three
        digits, so that names and commands tell them exactly.
    """
    points = []
    for i in range(count):
        point = {}
        for field, choices in fields.items():
            rng = random.Random(f"{seed}/{i}/{field}")  # another field changes no other's draw
            draw = getattr(choices, "draw", None)
            point[field] = draw(rng) if draw else rng.choice(list(choices))
        points.append(point)
    return points


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def _merge(a: Point, b: Point) -> Point:
    a, b = flatten(a), flatten(b)
    twice = (a.keys() & b.keys()) - {NAME}
    if twice:
        raise InputError(f"The sweep sets {min(twice)} twice in one point: combine other fields.")
    merged = {**a, **b}
    if NAME in merged:  # the part without a name gets its own
        merged[NAME] = "_".join(filter(None, map(name_of, (a, b))))
    return merged


def name_of(point: Point) -> str:
    """A name of a point: short, fit for a directory, the same whatever else the sweep has."""
    point = flatten(point)
    if NAME in point:
        return str(point[NAME])
    ends = [field.rsplit(".", 1)[-1] for field in point]
    parts = []
    for (field, value), end in zip(point.items(), ends, strict=True):
        label = end if ends.count(end) == 1 else field
        parts.append(f"{label}-{_say(value)}")
    return "_".join(parts)


def _say(value: Any) -> str:
    """A value in a name; of long and odd ones a part and a checksum of the whole."""
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        return text.replace("e-0", "e-").replace("e+0", "e")
    if isinstance(value, tuple | list):
        value = "+".join(map(_say, value))
    text = str(value)
    if re.fullmatch(r"[\w.+-]+", text) and len(text) <= _LONGEST:
        return text
    tail = re.sub(r"[^\w.+-]+", "-", text.rstrip("/").rsplit("/", 1)[-1]).strip("-")
    return f"{tail[-_LONGEST:].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:4]}"
