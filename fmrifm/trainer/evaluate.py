"""Evaluation inside a run: the exact mean loss over every clip of a set, and its pictures."""

from pathlib import Path

import jax
import numpy as np

from data_tools.reports.figures import new_figure, save_figure
from data_tools.spaces.geometry import Geometry
from fmrifm.input.pipeline import host_batches, on_devices
from fmrifm.input.sources import Source, union_geometry
from fmrifm.trainer.linear_fit import LinearFit
from fmrifm.trainer.linear_reference import LinearReference
from fmrifm.trainer.mesh import to_devices
from fmrifm.trainer.program import Program
from fmrifm.trainer.stopping import NonFiniteError

COLORS = "RdBu_r"
OFF_CORTEX = "0.70"
HIDDEN = "0.88"  # unlike the white of a zero
RANGE = 2.5  # standard deviations
COLUMNS = 4  # frames of a clip that are shown
NAMES = {"masked": "masked input", "prediction": "prediction", "truth": "truth"}


def draw_reconstruction(
    path: Path, geometry: Geometry, clip: dict[str, np.ndarray], title: str
) -> None:
    """Writes a PNG: rows masked input, prediction, truth; columns evenly spaced frames.

    Parcels and voxels are painted on the flat map. Where nobody knows where they lie, they are
    drawn as carpets instead: a row a patch, a column a frame.

    Args:
      clip: `masked`, `prediction` and `truth`, each (T, N, P) float; NaN marks hidden pixels.
    """
    figure, axes, image = (_frames if geometry.is_image else _carpets)(geometry, clip)
    figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01, label="standard deviations")
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _frames(geometry: Geometry, clip: dict[str, np.ndarray]):
    """A figure of frames, its axes, and an image with their colours."""
    frames = np.linspace(0, len(clip["truth"]) - 1, COLUMNS).round().astype(int)
    height, width = geometry.image_mask.shape
    figure = new_figure(3.2 * COLUMNS, 3.0 * 3 * height / width + 0.8)
    axes = figure.subplots(3, COLUMNS, squeeze=False)
    for row, (key, name) in zip(axes, NAMES.items(), strict=True):
        for axis, frame in zip(row, frames, strict=True):
            image = show_frame(axis, geometry, clip[key][frame])
            if key == "masked":
                axis.set_title(f"frame {frame}", fontsize=9)
        row[0].set_ylabel(name, fontsize=10)
    figure.get_layout_engine().set(hspace=0.02, wspace=0.01, h_pad=0.02)
    return figure, axes, image


def _carpets(geometry: Geometry, clip: dict[str, np.ndarray]):
    """As `_frames`: the mean of each patch over its valid pixels, in time."""
    figure = new_figure(10, 5)
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
    return figure, axes, image


def show_frame(axis, geometry: Geometry, patches: np.ndarray):
    """Draws one (N, P) frame on an axis: the medial wall grey, hidden cortex lighter."""
    frame = geometry.to_image(patches.astype(np.float32), fill=np.nan)
    mask = geometry.image_mask
    backdrop = np.where(mask, float(HIDDEN), float(OFF_CORTEX))
    axis.imshow(backdrop, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    image = axis.imshow(
        np.where(mask, frame, np.nan), cmap=COLORS, vmin=-RANGE, vmax=RANGE, interpolation="nearest"
    )
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return image


class Evaluator:
    """Scores the evaluation sets of a run; compiles once a set, on its first call."""

    def __init__(
        self,
        program: Program,
        evals: dict[str, list[Source]],
        figures: Path,
        fit: LinearFit | None = None,
    ):
        """
        Args:
          evals: name -> sources.
          figures: directory for the pictures.
          fit: the linear predictor whose losses `prepare` computes; None leaves them out.
        """
        self._program, self._figures, self._fit = program, figures, fit
        self._linear_losses: dict[str, float] = {}
        self._sets = {}
        for name, sources in evals.items():
            geometry = union_geometry(sources)
            batches, task = program.eval_batches(sources, geometry), program.make_task(geometry)
            cut = task.objective.geometry
            self._sets[name] = (batches, cut, task, *program.eval_functions(task))

    def prepare(self, params) -> None:
        """Computes the losses of the linear predictor, once, where no mesh is in scope."""
        if self._fit is not None:
            reference, self._fit = LinearReference(self._fit), None  # its components are large
            for name, (batches, _, task, *_) in self._sets.items():
                self._linear_losses[name] = reference.loss(name, batches, task, params)

    def __call__(self, params, step: int) -> dict[str, float]:
        """Scores every set; draws figures on the first host.

        Returns:
          eval/NAME/loss; loss_zero, of predicting zero; loss_linear, of the linear predictor;
          explained, the share (loss_zero - loss) / loss_zero; clips.
        """
        values = {}
        for name, (batches, geometry, _, loss_sums, reconstruct) in self._sets.items():
            sums = []
            for batch in self._on_devices(batches):
                if not sums and self._program.config.figures:
                    clips = jax.device_get(reconstruct(params, batch))
                    self._draw(name, step, batches, geometry, clips)
                sums.append(loss_sums(params, batch))
                # Not a read: only keeps the host from running far ahead of the devices.
                jax.block_until_ready(sums[-2:][0])
            total = np.sum(np.array(jax.device_get(sums), np.float64), axis=0)
            error, power, pixels = total
            if not np.isfinite(error):  # the parameters are finite, so these data are not
                raise NonFiniteError(
                    f"The loss of the eval set '{name}' is not finite after step {step}: look for "
                    "damaged runs with python -m data_tools.inspect STORE --verify."
                )
            values[f"eval/{name}/loss"] = float(error / pixels)
            values[f"eval/{name}/loss_zero"] = float(power / pixels)
            values[f"eval/{name}/explained"] = float(1 - error / power) if power else 0.0
            if name in self._linear_losses:
                values[f"eval/{name}/loss_linear"] = self._linear_losses[name]
            values[f"eval/{name}/clips"] = len(batches.clips)
        return values

    def _on_devices(self, batches):
        data = self._program.config.data
        host = host_batches(batches, 0, data.threads, workers=0)
        try:
            yield from on_devices(
                host, lambda batch: to_devices(batch, self._program.batch_sharding)
            )
        except BaseException:
            batches.reader.close()
            raise
        finally:
            host.close()

    def _draw(self, name, step, batches, geometry, clips: dict[str, np.ndarray]) -> None:
        if jax.process_index():
            return
        for i in range(min(len(clips["truth"]), len(batches.clips))):
            clip = batches.clips[i]
            run = batches.sources[clip.source].store.runs[clip.run]
            title = f"{name}, step {step}: {run['key']}, frames from {clip.start}"
            one = {key: frames[i] for key, frames in clips.items()}
            path = self._figures / f"{name}_{i}_step-{step:07d}.png"
            draw_reconstruction(path, geometry, one, title)
