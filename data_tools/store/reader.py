"""The store, version 1: runs as plain arrays, ready for random access.

```
STORE/store.json               what the store holds: format, version, sizes, shards, preprocessing
STORE/geometry.npz             the map from the brain space to patches
STORE/runs.jsonl               one line a run, in key order: where its frames are, and its metadata
STORE/shards/bold-00000.npy    (frames, N, P) float16, C order; off-cortex values are 0
STORE/stats/{mean,std}.npy     optional, (runs, N, P) float32: the scale before z-scoring
STORE/skipped.jsonl            optional: key, path and reason of runs that were left out
STORE/checksums.json           of these files but shards and stats, which runs.jsonl has (checksums)
```
This file is the format and its reader, `writer` the writer. Letters in array names: T frames,
N cortical patches, P pixels of a patch.
"""

import functools
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.block_cache import BlockCache
from data_tools.files.byte_ranges import RangedFile
from data_tools.files.npy import ArrayFile, as_bytes
from data_tools.files.remote import base_name
from data_tools.store.arrays import READING_PATIENCE, Array, Rows, StoreFiles
from data_tools.store.checksums import check_once
from data_tools.store.description import (
    FRAME_DTYPE,
    SCALE_DTYPE,
    check_places,
    missing_offsets,
    parse_run_lines,
    read_geometry,
    read_meta,
)
from data_tools.store.json_text import parse_json

SKIPPED = "skipped.jsonl"

# A process may have only 1,024 files open.
_OPEN_SHARDS = 256
# Bytes that are read at once to be checked. Pieces of 1 MiB stay in the processor's cache; requests
# to a bucket take too long for so few.
_LOCAL_PIECE, _REMOTE_PIECE = 2**20, 2**24


class Store:
    """Reader of a store: random access to clips by (run, start).

    Opening it checks everything but the frames and the scale of runs. These are checked in every
    process when a run is first read, unless they come from a bucket or through a cache, of which
    only parts are read: see `verify`. A store may be shared by threads, and pickled to other
    processes, which open its arrays again.

    Attributes:
      path: the directory, absolute, or its URL.
      is_local: whether reads go straight to files here, and many at once gain nothing.
      meta: what `store.json` says.
      geometry: valid pixels and patch grid.
      tr: seconds between frames.
      runs: the lines of `runs.jsonl`, in key order.
      preprocessing: how the frames were made.
      has_scale: whether the mean and standard deviation before z-scoring are stored.
      restricted: fields of `runs` that reports, logs and models must not show.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        cache: BlockCache | None = None,
        *,
        check_runs: bool = True,
        check_files: bool = True,
    ):
        """Opens a store.

        Args:
          path: a directory, or its URL in a bucket (`gs://`, `s3://`) or on a web server.
          cache: where blocks of its arrays are kept once read.
          check_runs: whether runs are compared with their checksums when they are first read.
          check_files: whether the other files are, now; without, files that were changed are read.

        Raises:
          InputError: it is missing or damaged, or its parts contradict each other.
        """
        files = self._files = StoreFiles(path)
        self.path: Path | str = files.place
        self.meta = read_meta(files, check_files)
        self.geometry = read_geometry(files, self.meta)
        lines = files.read("runs.jsonl")
        self.runs = parse_run_lines(lines, files.where("runs.jsonl"))
        self.tr = float(self.meta["tr"])
        self.preprocessing: dict[str, Any] = self.meta["preprocessing"]
        self.restricted = frozenset(self.meta.get("restricted", []))
        self.has_scale = files.has("stats/mean.npy") or files.has("stats/std.npy")
        # Only stores without checksums may have lost their stats: version 0.1 allowed that.
        self.has_scale |= bool(files.sums) and any("scale_crc32" in run for run in self.runs)
        self._missing = [missing_offsets(run, self.geometry, self.path) for run in self.runs]
        check_places(self.path, self.meta, self.runs)
        arrays = self._arrays()
        self._offsets = dict(zip(arrays, files.offsets(list(arrays.values())), strict=True))
        self._cache = cache
        self.is_local = not files.remote and cache is None
        self._check_runs = check_runs and self.is_local
        if cache is not None:
            # Of its contents, so that blocks of a store that was made anew are not taken for it.
            text = json.dumps([self.meta, zlib.crc32(lines)], sort_keys=True)
            self._digest = hashlib.sha256(text.encode()).hexdigest()[:24]
            cache.open(self._digest)
        files.retries.patience = READING_PATIENCE
        self._open_arrays()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_arrays()

    def stop_waiting(self) -> None:
        """From now on failed requests are not repeated: nobody needs what they would bring."""
        self._files.retries.end()

    @property
    def name(self) -> str:
        """The last part of its path."""
        return base_name(self.path)

    @property
    def n_bytes(self) -> int:
        """Size of its arrays."""
        return sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in self._arrays().values())

    def skipped(self) -> list[dict[str, Any]]:
        """Runs that were left out when the store was made: key, path and reason."""
        if not self._files.has(SKIPPED):
            return []
        where = self._files.where(SKIPPED)
        texts = self._files.read(SKIPPED).splitlines()
        return [parse_json(text, f"Line {i} of {where}") for i, text in enumerate(texts, 1)]

    def read(
        self, run: int, start: int, n_frames: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Frames [start, start + n_frames) of a run.

        Args:
          run: index into `runs`.
          start: first frame, counted from the beginning of the run.
          n_frames: number of frames, at least 1.
          out: (n_frames, N, P) float16, C order, to be filled; None makes a read-only array.

        Returns:
          (n_frames, N, P) float16.

        Raises:
          InputError: the run does not have these frames, does not match its checksum, or cannot be
            read.
        """
        if not 0 <= run < len(self.runs):
            raise InputError(f"{self.path} has no run {run}: it holds {len(self.runs)} runs.")
        line = self.runs[run]
        if not (0 <= start and n_frames >= 1 and start + n_frames <= line["n_frames"]):
            raise InputError(
                f"Run {line['key']} of {self.path} has {line['n_frames']} frames, so frames "
                f"{start} to {start + n_frames - 1} cannot be read: ask for fewer frames."
            )
        first = line["first_frame"] + start
        frames = self._rows(f"shard {line['shard']}")
        if not self._check_runs:
            return frames.read(first, first + n_frames, out)
        part = line["first_frame"], line["n_frames"], line["crc32"]
        while True:
            state = frames.state()
            check_once(
                state, part, lambda: self._check(run, self._frames_sum(run, frames), "crc32")
            )
            found = frames.read(first, first + n_frames, out)
            # The state tells whether the file was written to since the run was checked.
            if frames.state() == state:
                return found

    def scale(self, run: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation of a run before z-scoring, each (N, P) float32, or None."""
        if not self.has_scale:
            return None
        mean, std = (self._rows(name).read(run, run + 1)[0] for name in ("mean", "std"))
        # As cheap as reading it, so that there is no need to remember that it was checked.
        if self._check_runs and "scale_crc32" in self.runs[run]:
            self._check(run, scale_checksum(mean, std), "scale_crc32")
        return mean, std

    def missing(self, run: int) -> np.ndarray | None:
        """(M,) int64: sorted offsets of the missing pixels in a flat N * P frame, or None."""
        return self._missing[run]

    def valid(self, run: int) -> np.ndarray:
        """(N, P) bool: the pixels of the geometry that hold data in this run."""
        valid = self.geometry.patch_mask.copy()
        if self._missing[run] is not None:
            valid.reshape(-1)[self._missing[run]] = False
        return valid

    def verify(self) -> Iterator[tuple[str, bool]]:
        """Reads everything and yields, run by run, its key and whether its checksums match."""
        for run, line in enumerate(self.runs):
            intact = self._frames_sum(run, self._rows(f"shard {line['shard']}")) == line["crc32"]
            if self.has_scale and "scale_crc32" in line:
                scale = (self._rows(name).read(run, run + 1) for name in ("mean", "std"))
                intact &= scale_checksum(*scale) == line["scale_crc32"]
            yield line["key"], intact

    def _frames_sum(self, run: int, frames: ArrayFile | Rows) -> int:
        """The crc32 of the frames of a run, read in pieces from its shard."""
        line, frame_bytes = self.runs[run], self.geometry.patch_mask.size * FRAME_DTYPE.itemsize
        step = max(1, (_LOCAL_PIECE if self.is_local else _REMOTE_PIECE) // frame_bytes)
        first, checksum = line["first_frame"], 0
        last = first + line["n_frames"]
        for start in range(first, last, step):
            checksum = zlib.crc32(as_bytes(frames.read(start, min(start + step, last))), checksum)
        return checksum

    def _check(self, run: int, found: int, name: str) -> None:
        """Refuses a run of which a checksum is not that of its line."""
        if found != self.runs[run][name]:
            raise InputError(
                f"Run {self.runs[run]['key']} of {self.path} does not match its checksum: copy "
                "that store again, or make it again from its source."
            )

    def _arrays(self) -> dict[str, Array]:
        """File, shape and dtype of every array of the store."""
        patches = (self.geometry.n_patches, self.geometry.patch_dim)
        arrays = {
            f"shard {i}": (shard["file"], (shard["frames"], *patches), FRAME_DTYPE)
            for i, shard in enumerate(self.meta["shards"])
        }
        if self.has_scale:
            for name in ("mean", "std"):
                arrays[name] = (f"stats/{name}.npy", (len(self.runs), *patches), SCALE_DTYPE)
        return arrays

    def _open_arrays(self) -> None:
        # A file that the cache drops stays open while a thread reads it.
        self._rows = functools.lru_cache(_OPEN_SHARDS)(self._open)

    def _open(self, name: str) -> ArrayFile | Rows:
        file, shape, dtype = self._arrays()[name]
        where = self._files.where(file)
        if self.is_local:
            return ArrayFile(where, shape, dtype)
        blocks = self._cache and (self._cache, self._digest, name.replace(" ", "-"))
        ranged = RangedFile(where, self._files.retries)
        return Rows(ranged, self._offsets[name], shape, dtype, blocks)


def scale_checksum(mean: np.ndarray, std: np.ndarray) -> int:
    """crc32 of the stored scale of a run: the bytes of its mean, then of its std."""
    return zlib.crc32(as_bytes(std), zlib.crc32(as_bytes(mean)))
