"""Pictures of many probes: their intervals, and curves over the steps of a run."""

import dataclasses
from collections.abc import Iterable

from data_tools.reports.figures import COLOURS, new_figure, open_axes, to_png
from fmrifm.probe.results.compare_rows import Row, describe_intervals, grouped, metrics_of

_GREY, _INK = "0.55", "0.3"


def find_lines(rows: list[Row]) -> list[list[Row]]:
    """Rows of a section that differ by their step only, in its order, where there are several."""
    steps = [row for row in rows if row.step is not None]
    lines = grouped(steps, lambda row: (row.baseline, row.series, row.representation, row.head))
    lines.sort(key=lambda line: line[0].baseline)
    some = [sorted(line, key=lambda row: row.step) for line in lines]
    return [line for line in some if line[0].step < line[-1].step]


def _distinct(lines: list[list[Row]]) -> list[list[Row]]:
    """The lines with those of a baseline that are the same in all runs once."""
    kept = {}
    for line in lines:
        values = repr([(row.step, row.n, row.metrics) for row in line])
        what = (line[0].representation, line[0].head, values if line[0].baseline else id(line))
        if what in kept:
            line = [dataclasses.replace(row, series="all") for row in line]
        kept[what] = line
    return list(kept.values())


def draw_intervals(panels: list[list[Row]]) -> bytes:
    """Points with 95 % intervals, a panel for each section, a row a result."""
    heights = [len(rows) + 3 for rows in panels]
    figure = new_figure(9, 0.22 * sum(heights) + 0.5)
    every_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    colours = _colours(row.series for rows in panels for row in rows if not row.baseline)
    for axes, rows in zip(every_axes, panels, strict=True):
        metric, words = _prepare(axes, rows, axes.axvline)
        for y, row in enumerate(rows):
            colour = _GREY if row.baseline else colours[row.series]
            axes.plot(row.interval(metric), [y, y], color=colour)
            axes.plot(row.value(metric), y, "o", color=colour, markersize=4.5)
        axes.set_yticks(
            range(len(rows)), [f"{r.label}   {r.representation}   {r.head}" for r in rows]
        )
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(_GREY if row.baseline else "0.1")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        open_axes(axes, grid="x")
        axes.set_xlabel(words, fontsize=8)
    told = describe_intervals(row for rows in panels for row in rows)
    figure.supxlabel(f"Lines: {told}", fontsize=7, color=_INK)
    return to_png(figure)


def draw_steps(panels: list[list[list[Row]]]) -> bytes:
    """Curves over the steps of a run, a panel for each section, baselines grey."""
    panels = [_distinct(lines) for lines in panels]
    figure = new_figure(9, 3.2 * len(panels) + 0.2)
    every_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, lines in zip(every_axes, panels, strict=True):
        metric, words = _prepare(axes, [line[0] for line in lines], axes.axhline)
        names = ["   ".join((x[0].series, x[0].representation, x[0].head)) for x in lines]
        colours = _colours(n for n, x in zip(names, lines, strict=True) if not x[0].baseline)
        greys = iter(("-", "--", ":", "-.") * len(lines))
        for name, line in zip(names, lines, strict=True):
            colour = colours.get(name, _GREY)
            style = next(greys) if line[0].baseline else "o-"
            steps = [row.step for row in line]
            values = [row.value(metric) for row in line]
            axes.plot(steps, values, style, color=colour, markersize=3.5, label=name)
            if not line[0].baseline:
                low, high = zip(*(row.interval(metric) for row in line), strict=True)
                axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.02))
        open_axes(axes, grid="both")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(words, fontsize=8)
    told = describe_intervals(row for lines in panels for line in lines for row in line)
    figure.supxlabel(f"Bands: {told}", fontsize=7, color=_INK)
    return to_png(figure)


def _prepare(axes, rows: list[Row], draw_chance) -> tuple[str, str]:
    """Title and chance line of a panel; returns the metric that it shows, and it in words."""
    section = rows[0].section
    metric = next(iter(metrics_of(rows)), "")
    axes.set_title(f"{section.target}, {section.dataset} {section.split}", fontsize=9, loc="left")
    words = metric.replace("_", " ")
    if (chance := section.chance(metric)) is not None:
        words += " (dotted: a random guess)"
        draw_chance(chance, color=_INK, linewidth=0.9, linestyle=":", zorder=0)
    return metric, words


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name, from the first again after the last."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}
