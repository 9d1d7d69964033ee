"""Laws of every evaluation set in every size that the runs vary."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.analysis.iso_flop import IsoFlop, find_optima
from fmrifm.analysis.law_choice import FEWEST, Choice, choose_law, find_levels
from fmrifm.analysis.laws import POWER, REPLICATES
from fmrifm.analysis.scaling_groups import Group, count_levels, find_group
from fmrifm.analysis.scaling_points import SIZES, Point, distribution_of

_ORDER = ("in", "partly", "unknown", "out")


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How the loss of a set goes with a size.

    Attributes:
      group: the runs.
      distribution: of the set.
      x, loss: (n,) what laws are fitted to: the runs, or the best loss of each budget.
      choice: the fits; None for fewer than three budgets with a best loss.
      iso_flop: the budgets, where each has several sizes of models.
    """

    group: Group
    distribution: str
    x: np.ndarray
    loss: np.ndarray
    choice: Choice | None
    iso_flop: IsoFlop | None = None


def analyse(points: Sequence[Point], seed: int = 0, replicates: int = REPLICATES) -> list[Scaling]:
    """All laws of all sets, sets in distribution first.

    Raises:
      InputError: no size has three levels.
    """
    sets: dict[str, list[Point]] = {}
    for point in points:
        sets.setdefault(point.set, []).append(point)
    kinds = {name: distribution_of(some) for name, some in sets.items()}
    names = sorted(sets, key=lambda name: _ORDER.index(kinds[name]))
    groups = [group for name in names for x in SIZES if (group := find_group(sets[name], x))]
    enough = [g for g in groups if count_levels(g.points, g.x) >= FEWEST[POWER]]
    found = [
        scaling
        for group in tqdm(enough, "fitting laws", delay=3, leave=False, disable=None)
        if (scaling := _analyse(group, kinds[group.set], seed, replicates))
    ]
    if not found:
        most = {
            x: max((count_levels(g.points, x) for g in groups if g.x == x), default=0)
            for x in SIZES
        }
        counts = ", ".join(f"{count} of {x}" for x, count in most.items())
        raise InputError(
            f"A law needs three sizes among runs that are alike otherwise, and here are {counts}: "
            "add runs."
        )
    return found


def _analyse(group: Group, distribution: str, seed: int, replicates: int) -> Scaling | None:
    x, loss, iso_flop, choice = group.sizes, group.losses, None, None
    if group.x == "flops":
        iso_flop = find_optima(group, np.random.default_rng(seed), replicates)
        if iso_flop:
            x, loss = iso_flop.frontier
        elif not _one_model_each(group):
            return None
    if find_levels(x).max(initial=-1) + 1 >= FEWEST[POWER]:
        choice = choose_law(x, loss, np.random.default_rng(seed), replicates)
    return Scaling(group, distribution, x, loss, choice, iso_flop)


def _one_model_each(group: Group) -> bool:
    """Whether each budget has runs of one size, so that its loss is no choice among sizes."""
    levels = find_levels(group.sizes)
    budgets = [
        [p for p, k in zip(group.points, levels, strict=True) if k == level]
        for level in set(levels)
    ]
    return all(count_levels(budget, "params") == 1 for budget in budgets)
