"""A picture of a store: flat maps of its first runs, and their whole time course as a carpet.

The flat maps show whether the frames look like cortical activity at all (smooth, bilateral, the
medial wall empty); the carpet, one line a patch, shows motion and artefacts as vertical stripes,
with the global signal above it.
"""

import io
import os
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files import write_bytes
from data_tools.store import Store

_RANGE = 2.5  # z-scored data: few values are beyond
_GREY = "#cccccc"
_INK = "#333333"
_COLUMNS = 4
_MOST_RUNS = 3
_LONGEST_CARPET = 1500  # frames


def write_picture(store: Store, path: str | os.PathLike) -> None:
    """Draws up to 3 runs of a store and publishes the PNG atomically.

    Raises:
      InputError: the path does not end in .png, its directory is missing, or matplotlib is.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} does not end in .png: give the picture such a name.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"The directory of {path} does not exist: make it first.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("Pictures need matplotlib: pip install matplotlib.") from None
    n_runs = min(_MOST_RUNS, len(store.runs))
    height, width = store.geometry.mask.shape
    # Narrow spaces, such as parcels in a column, are stretched to a legible shape.
    aspect = height / width if 0.2 < height / width < 2 else 0.5
    map_height, signal_height, carpet_height, gap = 2.9 * aspect, 0.35, 0.9, 0.75
    block = map_height + signal_height + carpet_height + gap
    figure = Figure(figsize=(12.6, 0.5 + n_runs * block), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    title = f"{store.path.name}: {store.geometry.space}"
    if n_runs < len(store.runs):
        title += f", first {n_runs} of {len(store.runs):,} runs"
    figure.suptitle(title, fontsize=11, color=_INK)
    blocks = figure.subfigures(n_runs, 1, squeeze=False)[:, 0]
    for run, part in enumerate(blocks):
        _draw_run(store, run, part, (map_height, signal_height, carpet_height))
    buffer = io.BytesIO()
    # No software version in the file: the same store gives the same picture.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _draw_run(store: Store, run: int, part, heights: tuple[float, float, float]) -> None:
    line = store.runs[run]
    grid = part.add_gridspec(3, _COLUMNS, height_ratios=heights)
    shown = np.linspace(0, line["n_frames"] - 1, _COLUMNS + 2).round().astype(int)[1:-1]
    images = []
    for column, frame in enumerate(shown):
        axes = part.add_subplot(grid[0, column])
        images.append(_draw_map(store, run, int(frame), axes))
    part.suptitle(line["key"], x=0.01, ha="left", fontsize=9, color=_INK)
    bar = part.colorbar(images[0], ax=part.axes, fraction=0.012, pad=0.01, extend="both")
    bar.ax.tick_params(labelsize=7, colors=_INK)
    bar.outline.set_visible(False)
    signal, carpet, times = _time_course(store, run)
    top = part.add_subplot(grid[1, :])
    top.plot(times, signal, color=_INK, linewidth=0.8)
    top.axhline(0, color=_GREY, linewidth=0.6, zorder=0)
    top.set_ylabel("global", fontsize=7, color=_INK, rotation=0, ha="right", va="center")
    below = part.add_subplot(grid[2, :], sharex=top)
    extent = (0, line["n_frames"] * store.tr, len(carpet), 0)
    below.imshow(carpet, "RdBu_r", aspect="auto", vmin=-1.5, vmax=1.5, extent=extent)
    below.set_ylabel("patches", fontsize=7, color=_INK, rotation=0, ha="right", va="center")
    below.set_xlabel("seconds", fontsize=7, color=_INK, labelpad=1)
    for frame in shown:
        top.axvline((frame + 0.5) * store.tr, color="#e07b39", linewidth=0.8)
    top.set_xlim(0, line["n_frames"] * store.tr)
    for axes in (top, below):
        axes.set_yticks([])
        axes.tick_params(labelsize=7, colors=_INK, length=2)
        for side in axes.spines.values():
            side.set_visible(False)
    top.tick_params(labelbottom=False, length=0)


def _draw_map(store: Store, run: int, frame: int, axes):
    """Draws one frame, grey where there are no data; returns the image."""
    patches = store.read(run, frame, 1)[0].astype(np.float32)
    image = store.geometry.to_frames(np.where(store.valid(run), patches, np.nan), fill=np.nan)
    axes.set_facecolor(_GREY)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"{frame * store.tr:,.1f} s", fontsize=8, color=_INK, pad=3)
    height, width = image.shape
    return axes.imshow(
        image,
        "RdBu_r",
        vmin=-_RANGE,
        vmax=_RANGE,
        interpolation="nearest",
        aspect="equal" if 0.2 < height / width < 2 else "auto",
    )


def _time_course(store: Store, run: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global signal (t,), mean of each patch (N, t) and their times, of at most 1,500 frames."""
    n_frames = store.runs[run]["n_frames"]
    frames = np.unique(np.linspace(0, n_frames - 1, min(n_frames, _LONGEST_CARPET)).round())
    valid = store.valid(run)
    carpet = np.full((len(frames), len(valid)), np.nan, np.float32)
    n_valid = valid.sum(-1)
    some = n_valid > 0
    for i, frame in enumerate(frames.astype(int)):
        patches = store.read(run, int(frame), 1)[0]
        total = np.where(valid, patches, 0).sum(-1, dtype=np.float32)
        carpet[i, some] = total[some] / n_valid[some]
    signal = np.nansum(carpet * n_valid, -1) / n_valid.sum()
    return signal, carpet.T, (frames + 0.5) * store.tr
