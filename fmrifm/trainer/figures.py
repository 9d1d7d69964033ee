"""Pictures of reconstructions: what the model saw, what it predicted, what was there."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_tools.files import write_bytes
from data_tools.geometry import Geometry

COLORS = "RdBu_r"
OFF_CORTEX = "0.70"
HIDDEN = "0.88"  # unlike the white of a zero
RANGE = 2.5  # standard deviations
NAMES = {"masked": "masked input", "prediction": "prediction", "truth": "truth"}


def draw_reconstruction(
    path: Path, geometry: Geometry, clip: dict[str, np.ndarray], title: str, columns: int = 4
) -> None:
    """Writes a PNG: rows masked input, prediction, truth; columns evenly spaced frames.

    Parcels and voxels are painted on the flat map. Where nobody knows where they lie, they are
    drawn as carpets instead: a row a patch, a column a frame.

    Args:
      clip: `masked`, `prediction` and `truth`, each (T, N, P) float; NaN marks hidden pixels.
    """
    if not geometry.is_image:
        save_figure(_carpets(geometry, clip, title), path)
        return
    frames = np.linspace(0, len(clip["truth"]) - 1, columns).round().astype(int)
    height, width = geometry.image_mask.shape
    figure = Figure(figsize=(3.2 * columns, 3.0 * 3 * height / width + 0.8), layout="constrained")
    axes = figure.subplots(3, columns, squeeze=False)
    for row, (key, name) in zip(axes, NAMES.items(), strict=True):
        for axis, frame in zip(row, frames, strict=True):
            image = show_frame(axis, geometry, clip[key][frame])
            if key == "masked":
                axis.set_title(f"frame {frame}", fontsize=9)
        row[0].set_ylabel(name, fontsize=10)
    figure.get_layout_engine().set(hspace=0.02, wspace=0.01, h_pad=0.02)
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, label="standard deviations")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _carpets(geometry: Geometry, clip: dict[str, np.ndarray], title: str) -> Figure:
    """Mean of each patch over its valid pixels, in time."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    count = geometry.patch_mask.sum(-1)
    for axis, (key, name) in zip(axes, NAMES.items(), strict=True):
        means = (np.where(geometry.patch_mask, clip[key], 0).sum(-1) / count).T
        axis.set_facecolor(HIDDEN)
        image = axis.imshow(
            means, cmap=COLORS, vmin=-RANGE, vmax=RANGE, aspect="auto", interpolation="nearest"
        )
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("frame")
    axes[0].set_ylabel("patch")
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, label="standard deviations")
    figure.suptitle(title, fontsize=11)
    return figure


def show_frame(axis, geometry: Geometry, patches: np.ndarray, limit: float = RANGE):
    """Draws one (N, P) frame on an axis: the medial wall grey, hidden cortex lighter."""
    frame = geometry.to_image(patches.astype(np.float32), fill=np.nan)
    mask = geometry.image_mask
    backdrop = np.where(mask, float(HIDDEN), float(OFF_CORTEX))
    axis.imshow(backdrop, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    image = axis.imshow(
        np.where(mask, frame, np.nan),
        cmap=COLORS,
        vmin=-limit,
        vmax=limit,
        interpolation="nearest",
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
