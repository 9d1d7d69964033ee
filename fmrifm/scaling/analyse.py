"""Laws of every evaluation set in every size that the runs vary."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.scaling.groups import Group, count_levels, find_group
from fmrifm.scaling.laws import (
    FEWEST,
    POWER,
    REPLICATES,
    Choice,
    Fit,
    choose_law,
    find_levels,
    fit_law,
)
from fmrifm.scaling.points import DISTRIBUTIONS, SIZES, Point, distribution_of


@dataclasses.dataclass(frozen=True)
class Budget:
    """Runs of about the same compute.

    Attributes:
      flops: the geometric mean.
      params, losses: (m,) of its runs.
      parabola: coefficients in log(params), the square first; None for fewer than 3 sizes.
      optimal_params, optimal_loss: its minimum; None where the sizes tried do not enclose one.
    """

    flops: float
    params: np.ndarray
    losses: np.ndarray
    parabola: np.ndarray | None = None
    optimal_params: float | None = None
    optimal_loss: float | None = None

    def describe(self) -> str:
        sizes = f"{self.flops:.3g} FLOPs, {len(self.params)} runs"
        if self.parabola is None:
            return f"{sizes}: fewer than three sizes"
        if self.optimal_params is None:
            return f"{sizes}: no minimum within the sizes tried"
        best = f"{self.optimal_params:.3g} encoder parameters, loss {self.optimal_loss:.4g}"
        return f"{sizes}: {best}"


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Budgets of a set, and the law of N_opt: `a` is k and `b` is g; None for too few minima."""

    budgets: list[Budget]
    law: Fit | None

    @property
    def frontier(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) budgets that have a minimum, and (k,) their L_opt."""
        found = [(x.flops, x.optimal_loss) for x in self.budgets if x.optimal_params]
        return tuple(np.array(found).reshape(-1, 2).T)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        budgets = [
            {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(budget).items()}
            for budget in self.budgets
        ]
        if self.law is None:
            return {"budgets": budgets, "optimal_params": None}
        law = {"k": self.law.a, "g": self.law.b}
        ci = dict(zip(("k", "g"), self.law.intervals().values(), strict=True))
        return {"budgets": budgets, "optimal_params": {**law, "ci": ci}}


def find_optima(
    group: Group, rng: np.random.Generator, replicates: int = REPLICATES
) -> IsoFlop | None:
    """The analysis of a group in flops; None where no budget has three sizes of models."""
    known = (points for points in group.by_level() if all(point.params for point in points))
    budgets = [_fit_budget(points) for points in known]
    if not any(budget.parabola is not None for budget in budgets):
        return None
    found = [(x.flops, x.optimal_params) for x in budgets if x.optimal_params]
    optima = np.array(found).reshape(-1, 2)
    enough = len(optima) >= FEWEST[POWER]
    return IsoFlop(budgets, fit_law(*optima.T, POWER, rng, replicates) if enough else None)


def _fit_budget(points: list) -> Budget:
    params = np.array([point.params for point in points], float)
    losses = np.array([point.loss for point in points])
    flops = float(np.exp(np.mean(np.log([point.flops for point in points]))))
    if count_levels(points, "params") < 3:
        return Budget(flops, params, losses)
    logs = np.log(params)
    middle = logs.mean()  # for the precision of the fit
    square, slope, level = np.polyfit(logs - middle, losses, 2)
    parabola = np.array(
        [square, slope - 2 * square * middle, level - slope * middle + square * middle**2]
    )
    if square > 0 and logs.min() <= (best := middle - slope / (2 * square)) <= logs.max():
        loss = float(level - slope**2 / (4 * square))
        return Budget(flops, params, losses, parabola, float(np.exp(best)), loss)
    return Budget(flops, params, losses, parabola)


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

    @property
    def title(self) -> str:
        return f"{self.group.set} ({DISTRIBUTIONS[self.distribution]})"


def analyse(points: Sequence[Point], seed: int = 0, replicates: int = REPLICATES) -> list[Scaling]:
    """All laws of all sets, sets in distribution first."""
    sets: dict[str, list[Point]] = {}
    for point in points:
        sets.setdefault(point.set, []).append(point)
    kinds = {name: distribution_of(some) for name, some in sets.items()}
    names = sorted(sets, key=lambda name: list(DISTRIBUTIONS).index(kinds[name]))
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
        elif any(count_levels(budget, "params") > 1 for budget in group.by_level()):
            return None  # a budget's loss would depend on the sizes that were tried
    if find_levels(x).max(initial=-1) + 1 >= FEWEST[POWER]:
        choice = choose_law(x, loss, np.random.default_rng(seed), replicates)
    return Scaling(group, distribution, x, loss, choice, iso_flop)
