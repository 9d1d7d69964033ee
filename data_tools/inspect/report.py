"""The page of a store: figures of all runs in a sortable table, histograms, pictures of some runs.

`write_report` makes a directory with `index.html` and the PNGs that it shows.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory
from data_tools.inspect.facts import as_text, facts, n_subjects, shown_runs, skipped_runs
from data_tools.inspect.outliers import Column, choose_runs, columns_of
from data_tools.inspect.pictures import INK, draw_maps, draw_runs
from data_tools.inspect.typical import far_from_typical, median_figures, typical_range
from data_tools.reports.figures import new_figure, to_png
from data_tools.reports.page import render_page
from data_tools.store.reader import Store
from data_tools.timeseries.quality import frame_figures
from data_tools.wording import count

_TEMPLATE = Path(__file__).with_name("report.html")
_MARK = b'content="fmrifm store report"'
_MOST_PICTURES = 8
_PANELS = 4  # histograms side by side
_BLUE, _BAND = "#33658a", "#e3f0e3"
# Not in the table: what is shown otherwise, or says only where the frames are.
_NO_COLUMNS = frozenset(
    {"key", "n_frames", "shard", "first_frame", "crc32", "scale_crc32", "missing", "events", "qc"}
)
_FIRST_COLUMNS = ("dataset", "subject", "session", "task")


def write_report(store: Store, directory: str | os.PathLike) -> Path:
    """Writes the page of a store; an earlier one at the place is replaced once this is whole.

    Returns:
      The path of `index.html`.
    """
    import tqdm

    directory = Path(directory).resolve()
    _check_target(directory)
    new_figure(1, 1)  # without matplotlib it fails now, not after all runs were read
    n_runs = len(store.runs)
    bar = tqdm.tqdm(range(n_runs), "figures", unit="run", file=sys.stderr)
    figures = [frame_figures(store, run) for run in bar]
    runs = shown_runs(store)
    columns = columns_of(runs, figures, store.tr)
    chosen = choose_runs(columns, n_runs, _MOST_PICTURES)
    with publish_directory(directory) as new:
        (new / "histograms.png").write_bytes(_draw_histograms(columns))
        if maps := draw_maps(store):
            (new / "maps.png").write_bytes(maps)
        pictures = []
        for run, reasons in tqdm.tqdm(chosen.items(), "pictures", unit="run", file=sys.stderr):
            file = f"run-{run:05d}.png"
            (new / file).write_bytes(draw_runs(store, [run]))
            pictures.append({"file": file, "key": runs[run]["key"], "why": "; ".join(reasons)})
        fields, shared = _fields(runs)
        frames = sum(run["n_frames"] for run in runs)
        far = [any(column.marks[run] == "far" for column in columns) for run in range(n_runs)]
        page = render_page(
            _TEMPLATE,
            title=f"{store.name}: store report",
            store=store,
            totals=[
                count(n_runs, "run").split(),
                (n_subjects(runs), "subjects"),
                (f"{frames:,}", "frames"),
                (f"{frames * store.tr / 3600:,.1f}", "hours"),
                (f"{store.tr:g} s", "TR"),
            ],
            warnings=far_from_typical(median_figures(figures), store.tr),
            in_time=typical_range("autocorrelation", store.tr) is not None,
            n_far=sum(far),
            columns=columns,
            fields=fields,
            shared=shared,
            runs=runs,
            pictures=pictures,
            has_maps=maps is not None,
            skipped=skipped_runs(store),
            facts=list(facts(store)),
            preprocessing=store.preprocessing,
            provenance=store.meta.get("provenance") or {},
            as_text=as_text,
        )
        (new / "index.html").write_text(page, encoding="utf-8")
    return directory / "index.html"


def _check_target(directory: Path) -> None:
    """Refuses a place that holds anything but an earlier report, which would be deleted."""
    if not directory.exists():
        return
    page = directory / "index.html"
    names = {file.name for file in directory.iterdir()} if directory.is_dir() else {""}
    strange = {name for name in names if not name.endswith(".png")} - {"index.html"}
    ours = page.is_file() and _MARK in page.read_bytes()[:2000]
    if strange or (names and not ours):
        raise InputError(f"{directory} exists and is no report: give --report another directory.")


def _draw_histograms(columns: Sequence[Column]) -> bytes:
    """Small multiples, one a figure, the typical range shaded."""
    rows = -(-len(columns) // _PANELS)
    figure = new_figure(12.6, 1.9 * rows)
    every_axes = figure.subplots(rows, _PANELS, squeeze=False).ravel()
    for axes in every_axes[len(columns) :]:
        axes.set_axis_off()
    for axes, column in zip(every_axes, columns, strict=False):
        values = np.array(column.known)
        if column.limits:
            axes.axvspan(*column.limits, color=_BAND, linewidth=0)
        low, high = values.min(), values.max()
        if column.limits:
            low, high = min(low, column.limits[0]), max(high, column.limits[1])
        elif low == high:
            # Values that are all equal still make a bar that can be seen.
            low, high = min(low, 0), 1.1 * max(high, 0) or 1.0
        axes.hist(values, bins=30, range=(low, high), color=_BLUE)
        axes.set_title(column.measure.label, fontsize=8.5, color=INK, loc="left")
        axes.tick_params(labelsize=7, colors=INK, length=2)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color("#bbbbbb")
    return to_png(figure)


def _fields(runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, str]]]:
    """The columns of the run table whose values differ, and those with one value, with it."""
    names = dict.fromkeys(_FIRST_COLUMNS) | dict.fromkeys(name for run in runs for name in run)
    fields, shared = [], []
    for name in names:
        values = [run.get(name) for run in runs]
        if name in _NO_COLUMNS or any(isinstance(value, list | dict) for value in values):
            continue
        distinct = {as_text(value) for value in values if value not in (None, "")}
        if len(distinct) > 1 or (distinct and any(value in (None, "") for value in values)):
            fields.append(name)
        elif distinct and name != "tr":
            shared.append((name, distinct.pop()))
    return fields, shared
