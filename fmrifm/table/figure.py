"""A table as a picture: every seed of every row, and which rows differ from the reference."""

import math

from data_tools.reports.figures import new_figure, open_axes
from data_tools.reports.text_tables import as_text
from fmrifm.table.formats import field_columns, metric_titles
from fmrifm.table.rows import LIMIT, Table, direction

_GREY, _INK, _MARKED = "0.62", "0.15", "#d55e00"
_PANELS = 3  # side by side
_BETTER = {1: "(higher is better)", -1: "(lower is better)", 0: ""}
_LONG = 20  # characters of a title beside which there is room for this


def draw_table(table: Table):
    """A panel for each metric: seeds grey, means with deviations, the reference's band."""
    columns = min(_PANELS, len(table.metrics))
    lines = math.ceil(len(table.metrics) / columns)
    texts = [[title, *texts] for title, texts, _ in field_columns(table)]
    rows = zip(*texts, strict=True) if texts else [()] * (1 + len(table.rows))
    labels = list(as_text(list(rows), left=0))  # the titles of fields, then their texts in each row
    width = 0.075 * len(labels[0]) + 0.2
    height = 0.25 * len(labels) + 0.6
    figure = new_figure(width + 2.9 * columns, lines * height + 0.4)
    every_axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axes in every_axes[len(table.metrics) :]:
        axes.set_visible(False)
    for i, (metric, title) in enumerate(metric_titles(table).items()):
        axes = every_axes[i]
        _draw_panel(axes, table, metric)
        gap = " " if len(title) <= _LONG else "\n"
        axes.set_xlabel(title + gap + _BETTER[direction(metric)], fontsize=8)
        axes.set_yticks(range(-1, len(table.rows)), labels, family="monospace", fontsize=7.5)
        if i % columns == 0:  # the others show none
            axes.get_yticklabels()[0].set_color("0.45")
        axes.set_ylim(len(table.rows) - 0.5, -1.4)
    figure.supxlabel(_legend(table), fontsize=7, color="0.3")
    return figure


def _draw_panel(axes, table: Table, metric: str) -> None:
    pooled = table.pooled(metric)[0]
    centre = table.reference.mean(metric)
    if len(table.rows) > 1:
        axes.axvline(centre, color="0.75", linewidth=0.8, zorder=0)
        if math.isfinite(pooled):
            axes.axvspan(centre - LIMIT * pooled, centre + LIMIT * pooled, color="0.93", zorder=-1)
    for y, row in enumerate(table.rows):
        colour = _MARKED if table.differs(row, metric) else _INK
        values = row.values(metric)
        if len(values) > 1:
            places = [y + 0.27] * len(values)
            axes.plot(values, places, "o", color=_GREY, markersize=3.2, alpha=0.7, mew=0)
            axes.errorbar(
                row.mean(metric), y, xerr=row.std(metric), color=colour, capsize=2.5, linewidth=1.1
            )
        axes.plot(row.mean(metric), y, "D", color=colour, markersize=4, mew=0)
    open_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=5)


def _legend(table: Table) -> str:
    told = ["diamonds: means"]
    if any(len(row.runs) > 1 for row in table.rows):
        told = ["grey: seeds", "diamonds: means ± standard deviation"]
    if len(table.rows) > 1:
        told.append("line: reference")
        if any(table.pooled(metric)[1] for metric in table.metrics):
            told[-1] += f" ± {LIMIT} pooled deviations of a run"
            told.append("orange: further away")
    return ";  ".join(told)
