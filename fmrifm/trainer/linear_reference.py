"""The loss of the linear predictor that stands beside every evaluation loss.

It is a baseline: it does not change while a model trains, so that it is computed once and kept in
the user's cache.
"""

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_tools.files.atomic import write_bytes
from fmrifm.compile_cache import cache_folder
from fmrifm.input.data import store_digest
from fmrifm.input.pipeline import EvalBatches
from fmrifm.runs.sealed_lines import seal, unseal
from fmrifm.trainer.linear_fit import BATCH, LinearFit, add_sums, on_patches, progress
from fmrifm.trainer.step import Task

VERSION = 2  # of what is computed here: kept losses of other versions do not count
# What a kept loss depends on besides the stores.
_DATA = ("num_frames", "normalize", "no_coord_normalize", "eval_clips")
_MODEL = (
    *("t_patch", "patch_shape", "mask_ratio", "masking", "mask_patch_size", "t_pred_stride"),
    *("pred_mask_ratio", "pred_edge_pad", "target_norm", "pca_norm_nc"),
)


class LinearReference:
    """Losses of the linear predictor on the evaluation sets of a run."""

    def __init__(self, fit: LinearFit):
        self._fit, self._program, self._data = fit, fit.program, fit.data
        self._best: tuple[float, float] | None = None

    def loss(self, name: str, batches: EvalBatches, task: Task, params: dict) -> float:
        """The loss on a set under the masks of its evaluation, computed or found in the cache.

        Args:
          name: of the set.
          batches, task: as of the evaluation.
          params: of the model, for the components of `target_norm='pca'`.
        """
        given = jax.tree.map(np.asarray, {k: v for k, v in params.items() if k == "target_norm"})
        path = self._path(batches, given)
        kept = multihost_utils.broadcast_one_to_all(_read(path))
        if np.isfinite(kept):
            return float(kept)
        if self._best is None:
            self._best = self._fit.best(given)
        rank, noise = self._best
        maps = on_patches(self._fit.components, self._program.cut, task.objective.geometry)
        # All rows of every batch: processes compute the same and need not wait for each other.
        local = EvalBatches(batches.reader, batches.sources, batches.clips, BATCH, np.arange(BATCH))
        steps = progress(range(len(local)), f"linear predictor of {name}")
        choice_1x2 = np.array([[rank, noise]], np.float32)
        error, _, pixels = add_sums(task, given, (local[i] for i in steps), maps, choice_1x2)
        loss = float(multihost_utils.broadcast_one_to_all(error[0] / pixels[0]))
        if jax.process_index() == 0:
            _keep(path, {"loss": loss, "rank": rank, "noise": noise})
        return loss

    def _path(self, batches: EvalBatches, given: dict) -> Path:
        config, options = self._program.config, dataclasses.asdict(self._program.options)
        components = given.get("target_norm", {}).get("components")
        sources = [*self._data.train, *batches.sources]
        runs = [sorted(map(int, source.runs)) for source in sources]
        text = json.dumps(
            [
                VERSION,
                [store_digest(source.store) for source in sources],
                runs,
                {name: config.data[name] for name in _DATA},
                {name: options[name] for name in _MODEL},
                None if components is None else zlib.crc32(components.tobytes()),
            ]
        )
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        return cache_folder() / "linear" / f"{name}.json"


def _read(path: Path) -> np.ndarray:
    """The loss in a file; NaN where there is none, or a damaged one."""
    try:
        return np.float32((unseal(path.read_bytes()) or {})["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return np.float32(np.nan)


def _keep(path: Path, values: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, seal({name: float(x) for name, x in values.items()}))
    except OSError:  # a home that cannot be written: the next run computes it again
        pass
