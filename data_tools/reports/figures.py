"""Makes and writes figures; matplotlib is loaded only when a figure is drawn."""

import io
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes

# Colour-blind readers can tell these apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#117733")


def new_figure(width: float, height: float):
    """An empty matplotlib figure of a size in inches.

    Raises:
      InputError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("Pictures need matplotlib: pip install matplotlib.") from None
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def open_axes(axes, grid: str = "", labelsize: float = 8) -> None:
    """Removes the frame above and to the right; `grid` is "x", "y" or "both" for faint lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=labelsize)
    if grid:
        axes.grid(axis=grid, color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)


def to_png(figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # The version of matplotlib stays out of the file.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure, path: Path) -> None:
    """Writes a PNG atomically; its directory is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, to_png(figure))
