"""The linear predictor that stands beside every evaluation loss.

It predicts the masked pixels of a frame by their Gaussian conditional mean given the visible ones.
Their covariance is that of the training frames: K principal components plus white noise, K and the
noise chosen on training clips that the components have not seen. It is a baseline, so its loss
does not change while a model trains: it is computed once and kept in the user's cache.

Letters: B clips, L visible tokens, V values of a token, N patches, P pixels of a patch, S time
slots, t predicted frames of a token, K components, C choices of (rank, noise).
"""

import dataclasses
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_tools.files.atomic import write_bytes
from data_tools.spaces.geometry import Geometry
from fmrifm.input.clips import list_clips, pick_evenly
from fmrifm.input.data import Data, store_digest
from fmrifm.input.pipeline import ClipReader, EvalBatches
from fmrifm.input.principal_components import Components, StreamingComponents
from fmrifm.model.masking import Mask
from fmrifm.model.objective import Objective, Pixels
from fmrifm.model.targets import LossSums
from fmrifm.trainer.program import Program
from fmrifm.trainer.step import Task

VERSION = 1  # of what is computed here: kept losses of other versions do not count
RANKS, NOISES = (20, 80, 160), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MOST_CLIPS = 640  # of the training data that are read
MOST_HELD_OUT = 16  # of these that choose rank and noise
_BATCH = 8  # clips
# What a kept loss depends on besides the stores.
_DATA = ("num_frames", "normalize", "no_coord_normalize", "eval_clips")
_MODEL = (
    *("t_patch", "patch_shape", "mask_ratio", "masking", "mask_patch_size", "t_pred_stride"),
    *("pred_mask_ratio", "pred_edge_pad", "target_norm", "pca_norm_nc"),
)


class LinearReference:
    """Losses of the linear predictor on the evaluation sets of a run."""

    def __init__(self, program: Program, data: Data):
        self._program, self._data = program, data
        self._fitted: tuple[Components, np.ndarray] | None = None

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
        if self._fitted is None:
            self._fitted = self._fit(given)
        components, choice_1x2 = self._fitted
        maps = _on_patches(components, self._program.cut, task.objective.geometry)
        # All rows of every batch: processes compute the same and need not wait for each other.
        local = EvalBatches(
            batches.reader, batches.sources, batches.clips, _BATCH, np.arange(_BATCH)
        )
        steps = _progress(range(len(local)), f"linear predictor of {name}")
        error, _, pixels = _add_sums(task, given, (local[i] for i in steps), maps, choice_1x2)
        loss = float(multihost_utils.broadcast_one_to_all(error[0] / pixels[0]))
        if jax.process_index() == 0:
            _keep(path, {"loss": loss, "rank": choice_1x2[0, 0], "noise": choice_1x2[0, 1]})
        return loss

    def _fit(self, given: dict) -> tuple[Components, np.ndarray]:
        """Components of training frames, and their best (rank, noise) as (1, 2) float32.

        Each process computes this on a device of its own, so no mesh may be in scope: under one,
        the processes would wait for each other.
        """
        data, task, geometry = self._program.config.data, self._program.task, self._data.geometry
        reader = ClipReader(
            self._data.train, geometry, data.num_frames, data.no_coord_normalize, data.requests
        )
        clips = pick_evenly(list_clips(self._data.train, data.num_frames), MOST_CLIPS)
        # The last ones choose: clips side by side are too much alike for that.
        n_held_out = max(1, len(clips) // 5)
        batches = EvalBatches(reader, self._data.train, clips, _BATCH, np.arange(_BATCH))
        n_fitted = max(1, (len(clips) - n_held_out) // _BATCH)
        cut = self._program.cut
        collected = StreamingComponents(cut.n_patches * cut.patch_dim, max(RANKS))
        masked = jax.jit(task.masked)
        for i in _progress(range(len(batches)), "covariance of training frames"):
            if i == n_fitted:
                maps = _on_patches(collected.components(), cut, cut)
            batch = batches[i]
            values = np.asarray(masked(batch)[0].values_BxMxV)[batch["counted"]]
            collected.add(_frames(values, task.objective))
        components = collected.components()
        if n_fitted == len(batches):  # so few clips that none can be kept aside
            maps = _on_patches(components, cut, cut)
        choices_Cx2 = np.array(list(itertools.product(RANKS, NOISES)), np.float32)
        last = range(n_fitted, min(len(batches), n_fitted + MOST_HELD_OUT // _BATCH))
        held_out = (batches[i] for i in last or [n_fitted - 1])
        best = int(np.argmin(_add_sums(task, given, held_out, maps, choices_Cx2)[0]))
        return components, choices_Cx2[best : best + 1]

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
        root = os.environ.get("FMRIFM_CACHE") or Path.home() / ".cache" / "fmrifm"
        return Path(root, "linear", f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json")


def linear_sums(
    objective: Objective,
    params: dict,
    pixels: Pixels,
    mask: Mask,
    counted_B: jax.Array,
    maps: tuple[np.ndarray, np.ndarray],
    choices_Cx2: jax.Array,
) -> LossSums:
    """Loss sums (C,) of the Gaussian conditional mean under a mask.

    A frame is modelled as mean + maps' u + noise with standard normal u. Its posterior mean given
    the visible pixels (A: their maps, r: their values less the mean) solves
    (A A' / noise + 1) u = A r / noise.

    Args:
      params: with the components of `target_norm='pca'`, where that is the model's.
      maps: mean (N, P) and maps (N, K, P) on the patches of the objective's geometry.
      choices_Cx2: rank and noise variance.
    """
    o, n = objective.model.options, objective.geometry.n_patches
    mean_NxP, maps_NxKxP = map(jnp.asarray, maps)
    batch, rank = len(pixels.values_BxMxV), maps_NxKxP.shape[1]

    def by_frame(x_BxMxV: jax.Array) -> jax.Array:  # (B, S, N, t, P)
        return x_BxMxV.reshape(batch, o.slots, n, o.t_patch, -1)[:, :, :, :: o.t_pred_stride]

    values, shown = by_frame(pixels.values_BxMxV), by_frame(pixels.shown_BxMxV)
    rows = jnp.arange(batch)

    def see(sums, index_B):
        """Adds one visible token of every clip; an index without a token adds nothing."""
        gram_BxSxKxK, on_maps_BxSxKxt = sums
        slot_B, patch_B = jnp.minimum(index_B // n, o.slots - 1), index_B % n
        # Whether a pixel has data does not change within a clip.
        seen_BxP = shown[rows, slot_B, patch_B, 0] & (index_B < n * o.slots)[:, None]
        a_BxKxP = maps_NxKxP[patch_B] * seen_BxP[:, None]
        left_BxtxP = values[rows, slot_B, patch_B] - mean_NxP[patch_B][:, None]
        gram = jnp.einsum("bkp,blp->bkl", a_BxKxP, a_BxKxP)
        on_maps = jnp.einsum("bkp,btp->bkt", a_BxKxP, left_BxtxP)
        return (
            gram_BxSxKxK.at[rows, slot_B].add(gram),
            on_maps_BxSxKxt.at[rows, slot_B].add(on_maps),
        ), None

    sizes = (rank, rank), (rank, o.t_patch // o.t_pred_stride)
    zeros = tuple(jnp.zeros((batch, o.slots, *size)) for size in sizes)
    (gram, on_maps), _ = jax.lax.scan(see, zeros, mask.visible_BxL.T)
    weights, targets = objective.wanted(params, pixels, mask)

    def one(choice_2: jax.Array) -> LossSums:
        keep_K = jnp.arange(rank) < choice_2[0]
        matrix = jnp.where(keep_K[:, None] & keep_K, gram, 0) / choice_2[1] + jnp.eye(rank)
        right = jnp.where(keep_K[:, None], on_maps, 0) / choice_2[1]
        codes = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)
        frames = jnp.einsum("bskt,nkp->bsntp", codes, maps_NxKxP) + mean_NxP[:, None]
        frames_BxMxW = frames.reshape(batch, o.slots * n, -1)
        return objective.score_values(frames_BxMxW, mask, weights, targets, counted_B)

    return jax.lax.map(one, jnp.asarray(choices_Cx2))


def _add_sums(
    task: Task, given: dict, batches: Iterable[dict], maps: tuple, choices_Cx2: np.ndarray
) -> np.ndarray:
    """(3, C) float64: `linear_sums` over batches, computed on a device of this process."""

    @jax.jit
    def sums(given, batch, maps, choices_Cx2):
        pixels, mask = task.masked(batch)
        counted = batch["counted"]
        return linear_sums(task.objective, given, pixels, mask, counted, maps, choices_Cx2)

    found = (jax.device_get(sums(given, batch, maps, choices_Cx2)) for batch in batches)
    return np.sum([np.array(one, np.float64) for one in found], axis=0)


def _progress(steps: range, text: str) -> Iterable[int]:
    """A progress bar, on the first process."""
    return tqdm(steps, text, leave=False, disable=None if jax.process_index() == 0 else True)


def _frames(values_BxMxV: np.ndarray, objective: Objective) -> np.ndarray:
    """(frames, N P): tokens as frames."""
    o, n = objective.model.options, objective.geometry.n_patches
    frames = values_BxMxV.reshape(len(values_BxMxV), o.slots, n, o.t_patch, -1)
    return np.swapaxes(frames, 2, 3).reshape(-1, n * frames.shape[-1])


def _on_patches(components: Components, trained: Geometry, wanted: Geometry):
    """(N, P) mean and (N, K, P) maps on the patches of another mask of the same grid."""
    shape = (trained.n_patches, trained.patch_dim)
    maps = components.maps_KxV.reshape(-1, *shape).swapaxes(0, 1)
    size = trained.grid[0] * trained.grid[1]
    full = np.zeros((size, shape[1])), np.zeros((size, *maps.shape[1:]))
    for whole, part in zip(full, (components.mean_V.reshape(shape), maps), strict=True):
        whole[trained.patch_index] = part
    return tuple(x[wanted.patch_index].astype(np.float32) for x in full)


def _read(path: Path) -> np.ndarray:
    """The loss in a file; NaN where there is none, or a damaged one."""
    try:
        return np.float32(json.loads(path.read_text())["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return np.float32(np.nan)


def _keep(path: Path, values: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({name: float(x) for name, x in values.items()}).encode())
    except OSError:  # a home that cannot be written: the next run computes it again
        pass
