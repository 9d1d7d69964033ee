"""The model that is best for a budget of compute (Hoffmann et al. 2022, arXiv 2203.15556, 3.2).

Runs of a budget differ in the size of the model and so in their steps. A parabola of the loss in
log(params) through them has its minimum at the best size N_opt, with the loss L_opt. Both follow
laws in the budget C: N_opt = (C/k)^g here, and L_opt as any loss. A minimum outside of the sizes
that were tried is a guess and is not used. Parabolas are good near their minimum only: sizes much
too small or too large pull it to their side.
"""

import dataclasses
from typing import Any

import numpy as np

from fmrifm.analysis.law_choice import FEWEST, find_levels
from fmrifm.analysis.laws import POWER, REPLICATES, Fit, fit_law
from fmrifm.analysis.scaling_groups import Group, count_levels


@dataclasses.dataclass(frozen=True)
class Budget:
    """Runs of about the same compute.

    Attributes:
      flops: the geometric mean.
      params, losses: (m,) of its runs.
      parabola: coefficients in log(params), the square first; None for fewer than 3 sizes.
      optimum: N_opt and L_opt; None where the sizes tried do not enclose a minimum.
    """

    flops: float
    params: np.ndarray
    losses: np.ndarray
    parabola: np.ndarray | None
    optimum: tuple[float, float] | None

    def describe(self) -> str:
        sizes = f"{self.flops:.3g} FLOPs, {len(self.params)} runs"
        if self.parabola is None:
            return f"{sizes}: fewer than three sizes"
        if self.optimum is None:
            return f"{sizes}: no minimum within the sizes tried"
        return f"{sizes}: {self.optimum[0]:.3g} encoder parameters, loss {self.optimum[1]:.4g}"


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """Budgets of a set, and the law of N_opt: `a` is k and `b` is g; None for too few minima."""

    budgets: list[Budget]
    law: Fit | None

    @property
    def frontier(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) budgets that have a minimum, and (k,) their L_opt."""
        found = [(x.flops, x.optimum[1]) for x in self.budgets if x.optimum]
        return tuple(np.array(found).reshape(-1, 2).T)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        budgets = [
            {
                "flops": x.flops,
                "params": x.params.tolist(),
                "losses": x.losses.tolist(),
                "parabola": None if x.parabola is None else x.parabola.tolist(),
                "optimal_params": x.optimum and x.optimum[0],
                "optimal_loss": x.optimum and x.optimum[1],
            }
            for x in self.budgets
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
    levels = find_levels(group.sizes)
    budgets = []
    for level in range(levels.max() + 1):
        points = [p for p, k in zip(group.points, levels, strict=True) if k == level]
        if all(point.params for point in points):
            budgets.append(_fit_budget(points))
    if not any(budget.parabola is not None for budget in budgets):
        return None
    optima = np.array([(x.flops, x.optimum[0]) for x in budgets if x.optimum]).reshape(-1, 2)
    enough = len(optima) >= FEWEST[POWER]
    return IsoFlop(budgets, fit_law(*optima.T, POWER, rng, replicates) if enough else None)


def _fit_budget(points: list) -> Budget:
    params = np.array([point.params for point in points], float)
    losses = np.array([point.loss for point in points])
    flops = float(np.exp(np.mean(np.log([point.flops for point in points]))))
    if count_levels(points, "params") < 3:
        return Budget(flops, params, losses, None, None)
    logs = np.log(params)
    middle = logs.mean()  # for the precision of the fit
    square, slope, level = np.polyfit(logs - middle, losses, 2)
    parabola = np.array(
        [square, slope - 2 * square * middle, level - slope * middle + square * middle**2]
    )
    if square <= 0:
        return Budget(flops, params, losses, parabola, None)
    best = middle - slope / (2 * square)
    if not logs.min() <= best <= logs.max():
        return Budget(flops, params, losses, parabola, None)
    lowest = level - slope**2 / (4 * square)
    return Budget(flops, params, losses, parabola, (float(np.exp(best)), float(lowest)))
