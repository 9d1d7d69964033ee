"""Pictures of a store: flat maps of its runs, their time course as a carpet, maps over all runs.

The flat maps show whether the frames look like cortical activity at all (smooth, bilateral, the
medial wall empty); the carpet, one line a patch, shows motion and artefacts as vertical stripes,
with the global signal above it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from data_tools.reports.figures import new_figure, to_png
from data_tools.store.reader import Store
from data_tools.timeseries.quality import thinned

_RANGE = 2.5  # z-scored data: few values are beyond
_GREY = "#cccccc"
INK = "#333333"
_COLUMNS = 4
_MOST_RUNS = 3
_MOST_SCALES = 64
_LONGEST_CARPET = 1500  # frames


def write_picture(store: Store, path: str | os.PathLike) -> None:
    """Draws up to 3 runs of a store and publishes the PNG atomically."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} does not end in .png: give the picture such a name.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"The directory of {path} does not exist: make it first.")
    n_runs = min(_MOST_RUNS, len(store.runs))
    title = f"{store.name}: {store.geometry.space}"
    if n_runs < len(store.runs):
        title += f", first {n_runs} of {len(store.runs):,} runs"
    write_bytes(path, draw_runs(store, range(n_runs), title))


def draw_runs(store: Store, runs: Sequence[int], title: str = "") -> bytes:
    """A PNG of some runs, each as flat maps, global signal and carpet."""
    # Narrow spaces, such as parcels in a column, are stretched to a legible shape.
    map_height, signal_height, carpet_height, gap = 2.9 * _aspect(store), 0.35, 0.9, 0.75
    block = map_height + signal_height + carpet_height + gap
    figure = new_figure(12.6, 0.5 * bool(title) + len(runs) * block)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    blocks = figure.subfigures(len(runs), 1, squeeze=False)[:, 0]
    for run, part in zip(runs, blocks, strict=True):
        _draw_run(store, run, part, (map_height, signal_height, carpet_height))
    return to_png(figure)


def draw_maps(store: Store) -> bytes | None:
    """A PNG of maps over all runs; None where there is nothing to show.

    How often each pixel is missing, if any is, and mean and standard deviation before z-scoring,
    if they are stored, as medians over up to 64 runs.
    """
    maps = _missing_map(store) + _scale_maps(store)
    if not maps:
        return None
    width = 12.6 if len(maps) > 1 else 7.0
    figure = new_figure(width, width / len(maps) * _aspect(store) + 0.8)
    every_axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, values, colours, limits) in zip(every_axes, maps, strict=True):
        values = np.where(store.geometry.patch_mask, values, np.nan)
        image = _show(store.geometry.to_image(values), axes, colours, *limits)
        axes.set_title(title, fontsize=9, color=INK)
        bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.5, pad=0.02)
        bar.ax.locator_params(nbins=4)
        _tidy_bar(bar)
    return to_png(figure)


def _missing_map(store: Store) -> list[tuple]:
    """Title, (N, P) values, colours and their limits; empty if no pixel is ever missing."""
    n_missing = np.zeros(store.geometry.patch_mask.size, np.int64)
    for run in range(len(store.runs)):
        if store.missing(run) is not None:
            n_missing[store.missing(run)] += 1
    if not n_missing.any():
        return []
    share = (n_missing / len(store.runs)).reshape(store.geometry.patch_mask.shape)
    return [("share of the runs in which a pixel is missing", share, "Reds", (0, share.max()))]


def _scale_maps(store: Store) -> list[tuple]:
    """The same of mean and standard deviation; empty if they are not stored."""
    if not store.has_scale:
        return []
    maps, sample = [], thinned(np.arange(len(store.runs)), _MOST_SCALES)
    scales = zip(*(store.scale(int(run)) for run in sample), strict=True)
    for name, arrays in zip(("mean", "standard deviation"), scales, strict=True):
        values = np.median(arrays, axis=0)
        low, high = np.quantile(values[store.geometry.patch_mask], (0.005, 0.995))
        limits = (min(float(low), 0.0), max(float(high), 1e-9))
        maps.append((f"{name} before z-scoring", values, "viridis", limits))
    return maps


def _draw_run(store: Store, run: int, part, heights: tuple[float, float, float]) -> None:
    line = store.runs[run]
    grid = part.add_gridspec(3, _COLUMNS, height_ratios=heights)
    shown = np.linspace(0, line["n_frames"] - 1, _COLUMNS + 2).round().astype(int)[1:-1]
    images = []
    for column, frame in enumerate(shown):
        axes = part.add_subplot(grid[0, column])
        patches = store.read(run, int(frame), 1)[0].astype(np.float32)
        image = store.geometry.to_image(np.where(store.valid(run), patches, np.nan))
        axes.set_title(f"{frame * store.tr:,.1f} s", fontsize=8, color=INK, pad=3)
        images.append(_show(image, axes, "RdBu_r", -_RANGE, _RANGE))
    part.suptitle(line["key"], x=0.01, ha="left", fontsize=9, color=INK)
    bar = part.colorbar(images[0], ax=part.axes, fraction=0.012, pad=0.01, extend="both")
    _tidy_bar(bar)
    signal, carpet, times = _time_course(store, run)
    top = part.add_subplot(grid[1, :])
    top.plot(times, signal, color=INK, linewidth=0.8)
    top.axhline(0, color=_GREY, linewidth=0.6, zorder=0)
    top.set_ylabel("global", fontsize=7, color=INK, rotation=0, ha="right", va="center")
    below = part.add_subplot(grid[2, :], sharex=top)
    extent = (0, line["n_frames"] * store.tr, len(carpet), 0)
    below.imshow(carpet, "RdBu_r", aspect="auto", vmin=-1.5, vmax=1.5, extent=extent)
    below.set_ylabel("patches", fontsize=7, color=INK, rotation=0, ha="right", va="center")
    below.set_xlabel("seconds", fontsize=7, color=INK, labelpad=1)
    for frame in shown:
        top.axvline((frame + 0.5) * store.tr, color="#e07b39", linewidth=0.8)
    top.set_xlim(0, line["n_frames"] * store.tr)
    for axes in (top, below):
        axes.set_yticks([])
        axes.tick_params(labelsize=7, colors=INK, length=2)
        axes.spines[:].set_visible(False)
    top.tick_params(labelbottom=False, length=0)


def _show(image_HxW: np.ndarray, axes, colours: str, low: float, high: float):
    """Draws an image, grey where it is NaN, without a frame; returns what matplotlib made of it."""
    axes.set_facecolor(_GREY)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    height, width = image_HxW.shape
    return axes.imshow(
        image_HxW,
        colours,
        vmin=low,
        vmax=high,
        interpolation="nearest",
        aspect="equal" if _is_image(height, width) else "auto",
    )


def _aspect(store: Store) -> float:
    height, width = store.geometry.image_mask.shape
    return height / width if _is_image(height, width) else 0.5


def _is_image(height: int, width: int) -> bool:
    return 0.2 < height / width < 2


def _tidy_bar(bar) -> None:
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)


def _time_course(store: Store, run: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global signal (t,), mean of each patch (N, t) and their times, of at most 1,500 frames."""
    frames = thinned(np.arange(store.runs[run]["n_frames"]), _LONGEST_CARPET)
    valid = store.valid(run)
    carpet = np.full((len(frames), len(valid)), np.nan, np.float32)
    n_valid = valid.sum(-1)
    some = n_valid > 0
    for i, frame in enumerate(frames):
        patches = store.read(run, int(frame), 1)[0]
        total = np.where(valid, patches, 0).sum(-1, dtype=np.float32)
        carpet[i, some] = total[some] / n_valid[some]
    signal = np.nansum(carpet * n_valid, -1) / n_valid.sum()
    return signal, carpet.T, (frames + 0.5) * store.tr
