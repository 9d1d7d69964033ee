"""From the clips of samples to the outputs of an encoder that sees every token with data.

Frozen features, fine-tuning and embeddings all encode clips this way. Letters: B clips of a batch,
C clips in all, M tokens.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.spaces.geometry import Geometry
from fmrifm.input.pipeline import ClipReader, EvalBatches, host_batches, on_devices
from fmrifm.input.preprocess import Tokenizer, Tokens
from fmrifm.input.sources import Source, check_grid, union_geometry
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder
from fmrifm.model.objective import Objective, Pixels
from fmrifm.probe.samples.samples import Samples
from fmrifm.trainer.mesh import batch_sharding, to_devices


class ClipEncoder:
    """A model on the geometry of some stores: its tokenizer, and its network as an objective."""

    def __init__(self, files: ModelFiles, sources: list[Source], geometry: Geometry | None = None):
        """
        Args:
          geometry: whose patches the tokens are; that of the sources unless given.

        Raises:
          InputError: the stores lie on another grid than the model.
        """
        self.files, self.sources, options = files, sources, files.options
        self.tokenizer = Tokenizer(
            geometry or union_geometry(sources),
            options.num_frames,
            options.t_patch,
            files.geometry.patch_shape,
            files.preprocessing["normalize"],
        )
        check_grid(self.tokenizer.geometry, files.geometry, "The data", "the model")
        self.objective = Objective(MaskedAutoencoder(options), self.tokenizer.geometry)

    @functools.cached_property
    def reader(self) -> ClipReader:
        """Reads the clips that the model takes, with their scale where it wants that."""
        stored, num_frames = self.tokenizer.stored, self.tokenizer.num_frames
        scaled = self.files.preprocessing.get("no_coord_normalize", False)
        return ClipReader(self.sources, stored, num_frames, scaled)

    def encode(self, params: dict, tokens: Tokens) -> tuple:
        """The class token, registers and patch tokens of a batch, as the model's `encode`."""
        values, valid = tokens
        index_BxM = jnp.broadcast_to(jnp.arange(values.shape[1]), values.shape[:2])
        pixels = Pixels(values, valid, valid, valid)
        seen = self.objective.see(params, pixels, index_BxM)
        return self.objective.model.apply({"params": params}, seen, method="encode")


@dataclasses.dataclass(frozen=True, eq=False)
class ClipBatches:
    """Clips of samples in their order; the last batch is filled up with rows that do not count.

    Batches are as `ClipReader.read` has them, with `length` (B,) int32, the frames of each clip.
    Only the clips from `first` to before `last` are taken.
    """

    encoder: ClipEncoder
    samples: Samples
    batch_size: int
    first: int = 0
    last: int | None = None

    @property
    def _batches(self) -> EvalBatches:
        reader, sources = self.encoder.reader, self.encoder.sources
        clips, size = self.samples.clips[self.first : self.last], self.batch_size
        return EvalBatches(reader, sources, clips, size, np.arange(size))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        clip_C = np.arange(len(self.samples.clips))[self.first : self.last]
        row_B = int(index) * self.batch_size + np.arange(self.batch_size)
        clip_B = clip_C[np.where(row_B < len(clip_C), row_B, 0)]
        batch = play_backwards(self._batches[index], self.samples, clip_B)
        return batch | {"length": self.samples.n_frames_C[clip_B].astype(np.int32)}


def play_backwards(batch: dict, samples: Samples, clip_B: np.ndarray) -> dict:
    """Reverses, in place, the frames of the clips that samples play backwards."""
    if samples.reversed_C is not None:
        for row in np.flatnonzero(samples.reversed_C[clip_B]):
            real = batch["bold"][row, : samples.n_frames_C[clip_B[row]]]
            real[:] = real[::-1].copy()
    return batch


def run_batches(step: Callable, batches: ClipBatches, mesh: jax.sharding.Mesh) -> Iterator:
    """Yields the arrays that a step makes of each batch, on the host."""
    sharding = batch_sharding(mesh)
    host = host_batches(batches, 0, threads=2, workers=0)
    with contextlib.closing(host), jax.set_mesh(mesh):
        for batch in on_devices(host, lambda batch: to_devices(batch, sharding)):
            yield jax.device_get(step(batch))
