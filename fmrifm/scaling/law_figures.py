"""Pictures of laws: a column for each evaluation set, a row for each size."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from data_tools.reports.figures import COLOURS, new_figure, open_axes, save_figure
from fmrifm.scaling.analyse import IsoFlop, Scaling
from fmrifm.scaling.law_table import describe_fit
from fmrifm.scaling.laws import FLOOR, Fit
from fmrifm.scaling.points import SIZES

INK, _GREY = "0.15", "0.6"
_MARKERS = "osD^vP*X"
_TICKS = MaxNLocator(7, steps=[1, 2, 5, 10])
_BEYOND = 4.0  # times the largest size that a law is drawn to
_ABOUT = (
    "Line: the law that predicts held-out runs (hollow) best, dashed beyond the runs; band: its "
    "95 % interval; grey: the other law"
)


def draw_scaling(path: Path, found: Sequence[Scaling], title: str = "") -> None:
    """Writes a PNG of laws with their bands and points; those that were held out are hollow."""
    sets = list(dict.fromkeys(scaling.group.set for scaling in found))
    sizes = [x for x in SIZES if any(scaling.group.x == x for scaling in found)]
    figure = new_figure(4.4 * len(sets) + 0.4, 3.7 * len(sizes) + 0.5)
    panels = figure.subplots(len(sizes), len(sets), squeeze=False)
    for axes in panels.flat:
        axes.set_visible(False)
    for scaling in found:
        axes = panels[sizes.index(scaling.group.x), sets.index(scaling.group.set)]
        axes.set_visible(True)
        _draw(axes, scaling)
    figure.supxlabel("\n".join(wrap(_ABOUT, 75 * len(sets))), fontsize=7, color="0.3")
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _draw(axes: Axes, scaling: Scaling) -> None:
    choice = scaling.choice
    low, high = scaling.x.min(), scaling.x.max()
    x = np.geomspace(low / 1.15, high * _BEYOND, 200)
    best = choice.fits[choice.best]
    for law, fit in choice.fits.items():
        if law != choice.best:
            axes.plot(x, fit.predict(x), color=_GREY, linewidth=0.9)
    _draw_law(axes, best, x, high)
    _draw_points(axes, scaling)
    axes.set_title(scaling.title, fontsize=10, loc="left")
    axes.set_xlabel(f"N: {SIZES[scaling.group.x]}", fontsize=9)
    axes.set_ylabel("masked loss", fontsize=9)
    lines = [fit.predict(x) for fit in choice.fits.values()]
    shown = np.concatenate([scaling.loss, *lines])
    margin = 0.06 * (shown.max() - shown.min()) or 0.01 * shown.max()
    scale_loss(axes, shown.min() - margin, shown.max() + 2 * margin)
    scale_size(axes, scaling.group.x, x)
    _write(axes, _describe(best), 0.97, "right")


def _draw_law(axes: Axes, law: Fit, x: np.ndarray, largest: float) -> None:
    """A law with its band, dashed beyond the largest size of the runs."""
    inside = x <= largest
    axes.fill_between(x, *law.band(x), color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(x[inside], law.predict(x[inside]), color=INK, linewidth=1.5)
    axes.plot(x[~inside], law.predict(x[~inside]), "--", color=INK, linewidth=1.5)


def _write(axes: Axes, text: str, place: float, side: str) -> None:
    """Text in an upper corner of the axes."""
    style = {"ha": side, "va": "top", "fontsize": 8, "linespacing": 1.5}
    axes.text(place, 0.95, text, transform=axes.transAxes, **style)


def _count(value: float, _: int | None = None) -> str:
    """2,000,000 as 2M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _draw_points(axes: Axes, scaling: Scaling) -> None:
    """A colour and a marker for each draw; the best losses of budgets are nobody's."""
    count = len(scaling.x)
    draws = ["" if scaling.iso_flop else p.draw or "" for p in scaling.group.points][:count]
    names = list(dict.fromkeys(draws))
    for i, name in enumerate(names):
        colour = COLOURS[i % len(COLOURS)]
        for held in (False, True):
            chosen = (np.array(draws) == name) & (scaling.choice.held_out == held)
            axes.plot(
                scaling.x[chosen],
                scaling.loss[chosen],
                _MARKERS[i % len(_MARKERS)],
                color=colour,
                markerfacecolor="white" if held else colour,
                markersize=5.5,
                label=name if held == scaling.choice.held_out[np.array(draws) == name][0] else None,
            )
    if len(names) > 1:
        axes.legend(fontsize=7, frameon=False, loc="lower left")


def _describe(fit: Fit) -> str:
    found = describe_fit(fit)
    law = r"$L = E + (N/a)^{\,b}$" if fit.law == FLOOR else r"$L = (N/a)^{\,b}$"
    return "\n".join([law, *(f"{x} = {found[x]}" for x in ("b", "a", "E") if x in found)])


def scale_loss(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis for losses that differ by a few percent: ticks at round numbers."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(_TICKS.tick_values(low, high)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.4g"))
    axes.yaxis.set_minor_locator(NullLocator())
    open_axes(axes, grid="both")


def scale_size(axes: Axes, size: str, x: np.ndarray) -> None:
    """A logarithmic axis from the smallest to the largest x: 1M, 2M, 5M, or powers of ten."""
    axes.set_xscale("log")
    axes.set_xlim(x.min(), x.max())
    wide = x.max() > 300 * x.min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    if size == "flops":
        axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_iso_flop(path: Path, found: Sequence[Scaling], title: str = "") -> None:
    """Writes a PNG: a row for each set, its parabolas and its best sizes; stars are the minima."""
    figure = new_figure(9.2, 3.8 * len(found) + 0.4)
    for (left, right), scaling in zip(
        figure.subplots(len(found), 2, squeeze=False), found, strict=True
    ):
        left.set_title(scaling.title, fontsize=10, loc="left")
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
        if budget.optimal_params:
            place = budget.optimal_params, budget.optimal_loss
            axes.plot(*place, "*", color=colour, markersize=12, markeredgecolor=INK)
    margin = 0.05 * (losses.max() - losses.min())
    scale_loss(axes, losses.min() - 2 * margin, losses.max() + margin)
    scale_size(axes, "params", np.array([params.min() / 1.2, params.max() * 1.2]))
    axes.set_xlabel(SIZES["params"], fontsize=9)
    axes.set_ylabel("masked loss", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


def _draw_sizes(axes: Axes, iso_flop: IsoFlop) -> None:
    for budget, colour in zip(iso_flop.budgets, _colours(iso_flop), strict=True):
        if budget.optimal_params:
            place = budget.flops, budget.optimal_params
            axes.plot(*place, "*", color=colour, markersize=12, markeredgecolor=INK, zorder=3)
    flops = np.array([budget.flops for budget in iso_flop.budgets])
    x = np.geomspace(flops.min() / 1.5, flops.max() * 4, 100)
    if law := iso_flop.law:
        _draw_law(axes, law, x, flops.max())
        told = f"$N_{{opt}} = (C/k)^{{\\,g}}$\ng = {describe_fit(law)['b']}"
        _write(axes, told, 0.03, "left")
    axes.set_yscale("log")
    scale_size(axes, "flops", x)
    open_axes(axes, grid="both")
    axes.set_xlabel(f"C: {SIZES['flops']}", fontsize=9)
    axes.set_ylabel("best encoder parameters", fontsize=9)


def _colours(iso_flop: IsoFlop) -> np.ndarray:
    return colormaps["viridis"](np.linspace(0.05, 0.85, len(iso_flop.budgets)))
