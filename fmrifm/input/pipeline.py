"""From stores to batches on the devices.

The element k of the grain source is this host's rows of the whole batch of step k. The host only
copies float16 bytes; everything arithmetic happens on the device (preprocess.py). Letters: B clips
of the global batch, b this host's rows, T frames, N patches, P pixels of a patch.
"""

import collections
import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from data_tools.errors import InputError
from data_tools.geometry import Geometry
from fmrifm.input.clips import Clips, ListSampler, RandomSampler, list_clips
from fmrifm.input.sources import Source


def batch_shapes(
    geometry: Geometry, num_frames: int, rows: int, with_scale: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what `ClipReader.read` returns for so many rows."""
    n, p = geometry.n_patches, geometry.patch_dim
    shapes = {
        "bold": ((num_frames, n, p), np.float16),
        "valid": ((-(-n * p // 8),), np.uint8),
        "words": ((2,), np.uint32),
        "counted": ((), bool),
    }
    if with_scale:
        shapes |= dict.fromkeys(("mean", "std"), ((n, p), np.float32))
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }


class ClipReader:
    """Copies clips of several stores into one batch on a common geometry.

    All bytes come through `Store.read(run, start, n_frames)`: a remote, cached store with that
    method can take the place of the memory map.
    """

    def __init__(
        self,
        sources: list[Source],
        geometry: Geometry,
        num_frames: int,
        with_scale: bool = False,
    ):
        """
        Args:
          with_scale: whether each run's mean and deviation before z-scoring come along.

        Raises:
          InputError: a store does not hold them.
        """
        self._sources, self.num_frames, self._with_scale = sources, num_frames, with_scale
        for source in sources:
            if with_scale and not source.store.has_scale:
                raise InputError(
                    f"{source.store.path} does not hold the scale of its runs, which "
                    "data.no_coord_normalize needs: convert the runs with --chain=pixel."
                )
        self._shape = (geometry.n_patches, geometry.patch_dim)
        self._slots = [
            np.searchsorted(geometry.patch_index, source.store.geometry.patch_index)
            for source in sources
        ]
        self._packed: dict[tuple[int, int], np.ndarray] = {}

    def _valid_bits(self, source: int, run: int) -> np.ndarray:
        """Runs without missing pixels share their store's entry."""
        store = self._sources[source].store
        key = (source, run if store.runs[run].get("missing") else -1)
        bits = self._packed.get(key)
        if bits is None:
            if len(self._packed) > 4096:
                self._packed = {}
            valid = np.zeros(self._shape, bool)
            valid[self._slots[source]] = store.valid(run)
            bits = self._packed[key] = np.packbits(valid.reshape(-1))
        return bits

    def read(self, clips: Clips, words: np.ndarray, counted: np.ndarray) -> dict[str, np.ndarray]:
        """Reads b clips.

        Args:
          words: (b, 2) uint32, the numbers that name each clip's random key.
          counted: (b,) bool, False for rows that only fill a last batch.

        Returns:
          bold (b, T, N, P) float16, zeros after the end of a run; valid (b, ceil(N P / 8)) uint8,
          one bit a pixel; words; counted; with the scale also mean and std (b, N, P) float32.
        """
        n_patches, patch_dim = self._shape
        bold = np.empty((len(clips), self.num_frames, n_patches, patch_dim), np.float16)
        valid = np.empty((len(clips), -(-n_patches * patch_dim // 8)), np.uint8)
        for row, (s, run, start) in enumerate(
            zip(clips.source.tolist(), clips.run.tolist(), clips.start.tolist(), strict=True)
        ):
            store = self._sources[s].store
            length = min(self.num_frames, store.runs[run]["n_frames"] - start)
            frames = store.read(run, start, length)
            if frames.shape == bold[row].shape:
                bold[row] = frames
            else:
                bold[row] = 0
                bold[row][:length, self._slots[s]] = frames
            valid[row] = self._valid_bits(s, run)
        batch = {"bold": bold, "valid": valid, "words": words, "counted": counted}
        return {**batch, **self._scale(clips)} if self._with_scale else batch

    def _scale(self, clips: Clips) -> dict[str, np.ndarray]:
        mean, std = np.zeros((2, len(clips), *self._shape), np.float32)
        for row, (s, run) in enumerate(zip(clips.source, clips.run, strict=True)):
            mean[row, self._slots[s]], std[row, self._slots[s]] = self._sources[s].store.scale(run)
        return {"mean": mean, "std": std}


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Random access by step: element k is rows [first, last) of the batch of step k."""

    reader: ClipReader
    sampler: RandomSampler | ListSampler
    batch_size: int
    rows: tuple[int, int]
    total_steps: int

    def __len__(self) -> int:
        return self.total_steps

    def clips(self, step: int) -> Clips:
        """Where the clips of a whole global batch lie."""
        return self.sampler.draw(step, self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        step = int(step)
        rows = np.arange(*self.rows)
        words = np.stack([np.full_like(rows, step), rows], axis=1).astype(np.uint32)
        return self.reader.read(self.clips(step)[rows], words, np.ones(len(rows), bool))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The clips of a list in order; the last batch is filled up with rows that do not count."""

    reader: ClipReader
    sources: list[Source]
    clips: Clips
    batch_size: int
    rows: tuple[int, int]

    def __len__(self) -> int:
        return -(-len(self.clips) // self.batch_size)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rows = int(index) * self.batch_size + np.arange(*self.rows)
        counted = rows < len(self.clips)
        clips = self.clips[np.where(counted, rows, 0)]
        keys = [
            self.sources[s].store.runs[r]["key"]
            for s, r in zip(clips.source, clips.run, strict=True)
        ]
        crc = np.array([zlib.crc32(key.encode()) for key in keys], np.uint32)
        words = np.stack([crc, clips.start.astype(np.uint32)], axis=1)
        return self.reader.read(clips, words, counted)


def make_sampler(
    sources: list[Source], num_frames: int, seed: int, sampling: str, stride: int, hrf_delay: float
) -> RandomSampler | ListSampler:
    """The sampler named by `data.sampling`: random, sequential or event."""
    if sampling == "random":
        return RandomSampler(sources, num_frames, seed)
    if sampling == "sequential":
        return ListSampler(sources, list_clips(sources, num_frames, stride), seed)
    if sampling == "event":
        clips = list_clips(sources, num_frames, hrf_delay=hrf_delay)
        return ListSampler(sources, clips, seed)
    raise InputError(f"data.sampling={sampling!r} is unknown: choose random, sequential or event.")


def local_rows(sharding: NamedSharding, batch_size: int) -> tuple[int, int]:
    """First and one-past-last row of the global batch that this host's devices need.

    They follow from the sharding, not from the process index: hosts that share a tensor axis must
    feed the same rows.
    """
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    bounds = sorted({place[0].indices(batch_size)[:2] for place in places})
    if any(left[1] != right[0] for left, right in itertools.pairwise(bounds)):
        raise InputError(
            "This host's devices need rows of the batch that do not lie together: order the mesh "
            "so that data and fsdp are its outer axes."
        )
    return bounds[0][0], bounds[-1][1]


def host_batches(source, first_step: int, threads: int, workers: int) -> grain.DatasetIterator:
    """Reads ahead in threads or worker processes; resuming at a step is a slice."""
    dataset = grain.MapDataset.source(source)[first_step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(1, threads))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    return iter(dataset)


def on_devices(
    batches: Iterator[dict[str, np.ndarray]], to_devices: Callable, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Keeps `ahead` batches on their way to the devices while the step runs (double buffering)."""
    queue = collections.deque(map(to_devices, itertools.islice(batches, ahead)))
    while queue:
        yield queue.popleft()
        queue.extend(map(to_devices, itertools.islice(batches, 1)))
