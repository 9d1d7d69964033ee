"""The linear model of training frames: principal components, and the noise that predicts best.

It predicts the masked pixels of a frame by their Gaussian conditional mean given the visible ones
(see `model.network_maps`). Evaluation losses stand beside its own, and a model with network maps
begins with it. Rank and noise are chosen on training clips that the components have not seen.

Letters: B clips, M tokens, V values of a token, N patches, P pixels of a patch, K components,
C choices of (rank, noise).
"""

import functools
import itertools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_tools.spaces.geometry import Geometry
from fmrifm.input.clips import list_clips, pick_evenly
from fmrifm.input.data import Data
from fmrifm.input.pipeline import EvalBatches
from fmrifm.input.principal_components import Components, StreamingComponents
from fmrifm.model.masking import Mask
from fmrifm.model.network_maps import (
    NetworkMaps,
    VisibleSums,
    posterior_codes,
    predict,
    sum_visible,
)
from fmrifm.model.objective import Objective, Pixels
from fmrifm.model.targets import LossSums
from fmrifm.trainer.program import Program
from fmrifm.trainer.step import Task

RANKS = (20, 80, 160)
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
MOST_CLIPS = 640  # of the training data that are read
MOST_HELD_OUT = 16  # of these that choose rank and noise
BATCH = 8  # clips


class LinearFit:
    """Fits the linear model to the training data of a run, when somebody first asks.

    Each process computes this on a device of its own, so no mesh may be in scope: under one, the
    processes would wait for each other.

    Attributes:
      program, data: of the run.
    """

    def __init__(self, program: Program, data: Data):
        self.program, self.data = program, data
        self._rank = max(*RANKS, program.options.network_maps)
        self._errors: dict[tuple[int, float], float] | None = None

    def best(self, given: dict, ranks: Sequence[int] = RANKS) -> tuple[int, float]:
        """Rank and noise of the smallest loss on clips kept aside; `given` as of `add_sums`."""
        if self._errors is None:
            self._errors = self._held_out_errors(given)
        choices = ((rank, noise) for rank in ranks for noise in NOISES)
        return min(choices, key=self._errors.__getitem__)

    def _held_out_errors(self, given: dict) -> dict[tuple[int, float], float]:
        """Squared error of every rank and noise that anyone may ask for, in one program."""
        ranks = sorted({*RANKS, self.program.options.network_maps or RANKS[0]})
        choices = list(itertools.product(ranks, NOISES))
        cut, batches, task = self.program.cut, self._batches, self.program.task
        last = range(self._n_fitted, min(len(batches), self._n_fitted + MOST_HELD_OUT // BATCH))
        held_out = (batches[i] for i in last or [self._n_fitted - 1])
        maps = on_patches(self._collected[0], cut, cut)
        error = add_sums(task, given, held_out, maps, np.array(choices, np.float32))[0]
        return dict(zip(choices, error, strict=True))

    @property
    def components(self) -> Components:
        """Those of all training frames that were read."""
        return self._collected[1]

    def network_maps(self) -> dict[str, np.ndarray]:
        """The parameters that a model with network maps begins with, see `empty_maps`."""
        rank, cut = self.program.options.network_maps, self.program.cut
        images = [
            cut.to_frames(x.reshape(-1, cut.n_patches, cut.patch_dim))
            for x in (self.components.maps_KxV[:rank], self.components.mean_V)
        ]
        maps = np.zeros((rank, *cut.mask.shape), np.float32)  # few frames have fewer components
        maps[: len(images[0])] = images[0]
        noise = np.float32([self.best({}, [rank])[1]])
        return {"maps": maps, "mean": images[1][0], "noise": noise}

    @functools.cached_property
    def _batches(self) -> EvalBatches:
        reader = self.program.reader(self.data.train, self.data.geometry)
        num_frames = self.program.config.data.num_frames
        clips = pick_evenly(list_clips(self.data.train, num_frames), MOST_CLIPS)
        return EvalBatches(reader, self.data.train, clips, BATCH, np.arange(BATCH))

    @property
    def _n_fitted(self) -> int:
        """Batches before those kept aside: the last ones, for clips side by side are too alike."""
        clips = len(self._batches.clips)
        return max(1, (clips - max(1, clips // 5)) // BATCH)

    @functools.cached_property
    def _collected(self) -> tuple[Components, Components]:
        """Components without the clips kept aside, and of all."""
        task, cut = self.program.task, self.program.cut
        collected = StreamingComponents(cut.n_patches * cut.patch_dim, self._rank)
        masked, some = jax.jit(task.masked), None
        for i in progress(range(len(self._batches)), "covariance of training frames"):
            if i == self._n_fitted:
                some = collected.components()
            batch = self._batches[i]
            values = np.asarray(masked(batch)[0].values_BxMxV)[batch["counted"]]
            collected.add(_frames(values, task.objective))
        whole = collected.components()
        return some or whole, whole  # so few clips that none can be kept aside


def linear_sums(
    objective: Objective,
    params: dict,
    pixels: Pixels,
    mask: Mask,
    counted_B: jax.Array,
    maps: NetworkMaps,
    choices_Cx2: jax.Array,
) -> LossSums:
    """Loss sums (C,) of the Gaussian conditional mean under a mask.

    Args:
      params: with the components of `target_norm='pca'`, where that is the model's.
      maps: on the patches of the objective's geometry; not their noise but that of a choice counts.
      choices_Cx2: rank and noise variance.
    """
    o, rank = objective.model.options, maps.maps_NxKxP.shape[1]
    maps = NetworkMaps(*map(jnp.asarray, maps))
    see = jax.vmap(functools.partial(sum_visible, options=o), (None, 0, 0, 0))
    sums = see(maps, pixels.values_BxMxV, pixels.shown_BxMxV, mask.visible_BxL)
    weights, targets = objective.wanted(params, pixels, mask)

    def one(choice_2: jax.Array) -> LossSums:
        keep_K = jnp.arange(rank) < choice_2[0]
        gram = jnp.where(keep_K[:, None] & keep_K, sums.gram_SxKxK, 0)
        kept = VisibleSums(gram, jnp.where(keep_K[:, None], sums.right_SxKxt, 0))
        codes_BxSxtxK = jax.vmap(posterior_codes, (0, None))(kept, choice_2[1])
        frames_BxMxW = predict(maps, codes_BxSxtxK, o)
        return objective.score_values(frames_BxMxW, mask, weights, targets, counted_B)

    return jax.lax.map(one, jnp.asarray(choices_Cx2))


def add_sums(
    task: Task, given: dict, batches: Iterable[dict], maps: NetworkMaps, choices_Cx2: np.ndarray
) -> np.ndarray:
    """(3, C) float64: `linear_sums` over batches, computed on a device of this process.

    `given` are parameters that are not learned: the components of `target_norm='pca'`.
    """

    @jax.jit
    def sums(given, batch, maps, choices_Cx2):
        pixels, mask = task.masked(batch)
        counted = batch["counted"]
        return linear_sums(task.objective, given, pixels, mask, counted, maps, choices_Cx2)

    found = (jax.device_get(sums(given, batch, maps, choices_Cx2)) for batch in batches)
    return np.sum([np.array(one, np.float64) for one in found], axis=0)


def progress(steps: range, text: str) -> Iterable[int]:
    """A progress bar, on the first process."""
    return tqdm(steps, text, leave=False, disable=None if jax.process_index() == 0 else True)


def _frames(values_BxMxV: np.ndarray, objective: Objective) -> np.ndarray:
    """(frames, N P): tokens as frames."""
    o, n = objective.model.options, objective.geometry.n_patches
    frames = values_BxMxV.reshape(len(values_BxMxV), o.slots, n, o.t_patch, -1)
    return np.swapaxes(frames, 2, 3).reshape(-1, n * frames.shape[-1])


def on_patches(components: Components, trained: Geometry, wanted: Geometry) -> NetworkMaps:
    """Components on the patches of another mask of the same grid, without a noise."""
    shape = (trained.n_patches, trained.patch_dim)
    maps = components.maps_KxV.reshape(-1, *shape).swapaxes(0, 1)
    size = trained.grid[0] * trained.grid[1]
    full = np.zeros((size, shape[1])), np.zeros((size, *maps.shape[1:]))
    for whole, part in zip(full, (components.mean_V.reshape(shape), maps), strict=True):
        whole[trained.patch_index] = part
    return NetworkMaps(*(x[wanted.patch_index].astype(np.float32) for x in full), np.float32(1))
