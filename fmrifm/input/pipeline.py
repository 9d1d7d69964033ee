"""From stores to batches on the devices.

The element k of the grain source is this host's rows of the whole batch of step k. The host only
copies float16 bytes; everything arithmetic happens on the device (preprocess.py). Letters: B clips
of the global batch, b this host's rows, T frames, N patches, P pixels of a patch.
"""

import collections
import dataclasses
import itertools
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.clips import Clips, ListSampler, RandomSampler
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

    From stores that are not local many reads are under way at once, so that their latencies pass
    together, and clips that overlap are read once.
    """

    def __init__(
        self,
        sources: list[Source],
        geometry: Geometry,
        num_frames: int,
        with_scale: bool = False,
        requests: int = 32,
    ):
        """
        Args:
          with_scale: whether each run's mean and deviation before z-scoring come along.
          requests: reads under way at once, where stores are not local.

        Raises:
          InputError: a store does not hold them.
        """
        self._arguments = (sources, geometry, num_frames, with_scale, requests)
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
        self._is_local = all(source.store.is_local for source in sources)
        self._requests = requests
        self._lock, self._pool = threading.Lock(), None

    def __reduce__(self):
        # A lock and threads stay in their process: another one makes a reader of its own.
        return ClipReader, self._arguments

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
        for row, (s, run, _) in enumerate(clips):
            valid[row] = self._valid_bits(s, run)
        # Reading from the page cache is a copy, like taking a clip from what was read for others.
        alone = np.arange(len(clips))[:, None]
        groups = alone if self._is_local else overlapping(clips, self.num_frames)
        self._for_each(groups, lambda rows: self._copy(bold, clips, rows))
        batch = {"bold": bold, "valid": valid, "words": words, "counted": counted}
        return {**batch, **self._scale(clips)} if self._with_scale else batch

    def _copy(self, bold: np.ndarray, clips: Clips, rows: np.ndarray) -> None:
        """Reads what clips of one run cover, and copies each to its row."""
        s, run = int(clips.source[rows[0]]), int(clips.run[rows[0]])
        store, first = self._sources[s].store, int(clips.start[rows].min())
        last = int(clips.start[rows].max()) + self.num_frames
        end = store.runs[run]["n_frames"]
        if len(rows) == 1 and last <= end and len(self._slots[s]) == bold.shape[2]:
            store.read(run, first, self.num_frames, bold[rows[0]])
            return
        read = store.read(run, first, min(last, end) - first)
        for row in rows:
            begin = clips.start[row] - first
            frames = read[begin : begin + self.num_frames]
            if frames.shape == bold[row].shape:
                bold[row] = frames
            else:
                bold[row] = 0
                bold[row][: len(frames), self._slots[s]] = frames

    def _for_each(self, items: Sequence, call: Callable) -> None:
        """Calls with every item, in any order; raises the error of the first call that fails."""
        if self._is_local:
            for item in items:
                call(item)
            return
        with self._lock:
            if self._pool is None:
                # Its threads do not keep a program alive that ends while a server is silent.
                self._pool = ThreadPool(self._requests)
        collections.deque(self._pool.imap_unordered(call, items), maxlen=0)

    def close(self) -> None:
        """Nothing is read any more: what failed is not asked for again."""
        for source in self._sources:
            source.store.stop_waiting()

    def _scale(self, clips: Clips) -> dict[str, np.ndarray]:
        mean, std = np.zeros((2, len(clips), *self._shape), np.float32)

        def copy(row: int) -> None:
            s, run = int(clips.source[row]), int(clips.run[row])
            mean[row, self._slots[s]], std[row, self._slots[s]] = self._sources[s].store.scale(run)

        self._for_each(range(len(clips)), copy)
        return {"mean": mean, "std": std}


def overlapping(clips: Clips, num_frames: int) -> list[np.ndarray]:
    """Rows of clips in groups whose frames overlap, chain by chain, each to be read at once."""
    order = np.lexsort((clips.start, clips.run, clips.source))
    source, run, start = (np.diff(x[order]) for x in (clips.source, clips.run, clips.start))
    apart = (source != 0) | (run != 0) | (start >= num_frames)
    return np.split(order, np.flatnonzero(apart) + 1)


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Random access by step: element k holds this host's rows of the batch of step k.

    Attributes:
      rows: their places in the global batch, see `local_rows`.
    """

    reader: ClipReader
    sampler: RandomSampler | ListSampler
    batch_size: int
    rows: np.ndarray
    total_steps: int

    def __len__(self) -> int:
        return self.total_steps

    def clips(self, step: int) -> Clips:
        """Where the clips of a whole global batch lie."""
        return self.sampler.draw(step, self.batch_size)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        step = int(step)
        words = np.stack([np.full_like(self.rows, step), self.rows], axis=1).astype(np.uint32)
        return self.reader.read(self.clips(step)[self.rows], words, np.ones(len(words), bool))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """The clips of a list in order; the last batch is filled up with rows that do not count."""

    reader: ClipReader
    sources: list[Source]
    clips: Clips
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.clips) // self.batch_size)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rows = int(index) * self.batch_size + self.rows
        counted = rows < len(self.clips)
        clips = self.clips[np.where(counted, rows, 0)]
        keys = [self.sources[s].store.runs[run]["key"] for s, run, _ in clips]
        crc = np.array([zlib.crc32(key.encode()) for key in keys], np.uint32)
        words = np.stack([crc, clips.start.astype(np.uint32)], axis=1)
        return self.reader.read(clips, words, counted)


def local_rows(sharding: NamedSharding, batch_size: int, process: int | None = None) -> np.ndarray:
    """Rows of the global batch that a host's devices need, ascending.

    They follow from the sharding, not from the process index: hosts that share a tensor axis must
    feed the same rows, and those of a host of a TPU slice, a square of chips, seldom lie together.

    Args:
      process: of the host, by default this one.
    """
    process = jax.process_index() if process is None else process
    places = sharding.devices_indices_map((batch_size,)).items()
    bounds = {place[0].indices(batch_size)[:2] for d, place in places if d.process_index == process}
    return np.concatenate([np.arange(*bound) for bound in sorted(bounds)])


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
    batches: Iterator[dict[str, np.ndarray]], to_devices: Callable
) -> Iterator[dict[str, jax.Array]]:
    """Keeps two batches on their way to the devices while the step runs (double buffering)."""
    queue = collections.deque(map(to_devices, itertools.islice(batches, 2)))
    while queue:
        yield queue.popleft()
        queue.extend(map(to_devices, itertools.islice(batches, 1)))
