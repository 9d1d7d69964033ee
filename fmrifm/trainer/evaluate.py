"""Evaluation inside a run: the exact mean loss over every clip of a set, and its pictures."""

from pathlib import Path

import jax
import numpy as np

from fmrifm.input.pipeline import host_batches, on_devices
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import Source, union_geometry
from fmrifm.trainer.experiment import Program
from fmrifm.trainer.figures import draw_reconstruction
from fmrifm.trainer.mesh import to_devices
from fmrifm.trainer.stopping import NonFiniteError


class Evaluator:
    """Scores the evaluation sets of a run; compiles once a set, on its first call."""

    def __init__(self, program: Program, evals: dict[str, list[Source]], figures: Path):
        """
        Args:
          evals: name -> sources.
          figures: directory for the pictures.
        """
        self._program, self._figures = program, figures
        self._sets = {}
        for name, sources in evals.items():
            geometry = union_geometry(sources)
            batches = program.eval_batches(sources, geometry)
            functions = program.eval_functions(geometry, program.config.figures)
            picture_geometry = cut_geometry(geometry, program.config.model.patch)
            self._sets[name] = (batches, picture_geometry, *functions)

    def __call__(self, params, step: int) -> dict[str, float]:
        """eval/NAME/{loss, loss_of_zero, clips} of every set; draws figures on the first host."""
        values = {}
        for name, (batches, geometry, loss_sums, reconstruct) in self._sets.items():
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
            values[f"eval/{name}/loss_of_zero"] = float(power / pixels)
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
