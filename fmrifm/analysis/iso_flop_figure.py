"""Pictures of budgets: parabolas through the models of each, and how the best size grows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmrifm.analysis.iso_flop import IsoFlop
from fmrifm.analysis.scaling_figure import COLOURS, INK, scale_loss, scale_size
from fmrifm.analysis.scaling_fits import Scaling
from fmrifm.analysis.scaling_table import DISTRIBUTIONS, SIZE_NAMES, show_interval
from fmrifm.trainer.figures import save_figure


def draw_iso_flop(path: Path, found: Sequence[Scaling], title: str = "") -> None:
    """Writes a PNG: a row for each set, its parabolas and its best sizes; stars are the minima."""
    figure = Figure(figsize=(9.2, 3.8 * len(found) + 0.4), layout="constrained")
    for (left, right), scaling in zip(
        figure.subplots(len(found), 2, squeeze=False), found, strict=True
    ):
        kind = DISTRIBUTIONS[scaling.distribution]
        left.set_title(f"{scaling.group.set} ({kind})", fontsize=10, loc="left")
        _draw_parabolas(left, scaling.iso_flop)
        _draw_sizes(right, scaling.iso_flop)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _draw_parabolas(axes: Axes, iso_flop: IsoFlop) -> None:
    params = np.concatenate([budget.params for budget in iso_flop.budgets])
    losses = np.concatenate([budget.losses for budget in iso_flop.budgets])
    for budget, colour in zip(iso_flop.budgets, _colours(iso_flop), strict=True):
        label = f"{budget.flops:.2g} FLOPs"
        axes.plot(budget.params, budget.losses, "o", color=colour, markersize=4.5, label=label)
        if budget.parabola is not None:
            x = np.geomspace(budget.params.min(), budget.params.max(), 100)
            axes.plot(x, np.polyval(budget.parabola, np.log(x)), color=colour, linewidth=1.2)
        if budget.optimum:
            axes.plot(*budget.optimum, "*", color=colour, markersize=12, markeredgecolor=INK)
    margin = 0.05 * (losses.max() - losses.min())
    scale_loss(axes, losses.min() - 2 * margin, losses.max() + margin)
    scale_size(axes, "params", np.array([params.min() / 1.2, params.max() * 1.2]))
    axes.set_xlabel(SIZE_NAMES["params"], fontsize=9)
    axes.set_ylabel("masked loss", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _draw_sizes(axes: Axes, iso_flop: IsoFlop) -> None:
    for budget, colour in zip(iso_flop.budgets, _colours(iso_flop), strict=True):
        if budget.optimum:
            place = budget.flops, budget.optimum[0]
            axes.plot(*place, "*", color=colour, markersize=12, markeredgecolor=INK, zorder=3)
    flops = np.array([budget.flops for budget in iso_flop.budgets])
    x = np.geomspace(flops.min() / 1.5, flops.max() * 4, 100)
    if law := iso_flop.law:
        inside = x <= flops.max()
        axes.fill_between(x, *law.band(x), color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(x[inside], law.predict(x[inside]), color=INK, linewidth=1.5)
        axes.plot(x[~inside], law.predict(x[~inside]), "--", color=INK, linewidth=1.5)
        told = (
            f"$N_{{opt}} = (C/k)^{{\\,g}}$\ng = {law.b:.3g}  {show_interval(law.intervals()['b'])}"
        )
        axes.text(
            *(0.03, 0.95, told), transform=axes.transAxes, va="top", fontsize=8, linespacing=1.5
        )
    axes.set_yscale("log")
    scale_size(axes, "flops", x)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"C: {SIZE_NAMES['flops']}", fontsize=9)
    axes.set_ylabel("best encoder parameters", fontsize=9)


def _colours(iso_flop: IsoFlop) -> np.ndarray:
    return colormaps["viridis"](np.linspace(0.05, 0.85, len(iso_flop.budgets)))
