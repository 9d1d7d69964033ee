"""The store, version 1: runs as plain memory-mapped arrays, ready for random access.

```
STORE/store.json               what the store holds: format, version, sizes, shards, preprocessing
STORE/geometry.npz             the map from the brain space to patches
STORE/runs.jsonl               one line a run, in key order: where its frames are, and its metadata
STORE/shards/bold-00000.npy    (frames, N, P) float16, C order; off-cortex values are 0
STORE/stats/{mean,std}.npy     optional, (runs, N, P) float32: the scale before z-scoring
STORE/skipped.jsonl            optional: key, path and reason of runs that were left out
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
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.block_cache import BlockCache
from data_tools.files.byte_ranges import RangedFile
from data_tools.files.npy import as_bytes, open_array
from data_tools.files.remote import base_name
from data_tools.spaces.geometry import Geometry, parse_geometry
from data_tools.store.arrays import READING_PATIENCE, Array, Rows, StoreFiles

STORE_FORMAT = "fmrifm-store"
STORE_VERSION = 1
SKIPPED = "skipped.jsonl"
FRAME_DTYPE = np.dtype("<f2")
SCALE_DTYPE = np.dtype("<f4")

# A map holds a file descriptor while it is open, and a process may have only 1,024 of them.
_OPEN_SHARDS = 256
_CHECK_BYTES = 16 * 2**20


class Store:
    """Reader of a store: random access to clips by (run, start).

    Opening it checks everything but the frames themselves (see `verify`). A store may be shared by
    threads, and pickled to other processes, which open its arrays anew. Only `read` and `scale`
    touch array bytes: a memory map here, ranges of bytes from a bucket (see `arrays`).

    Attributes:
      path: the directory, absolute, or its URL.
      is_mapped: whether reading is a look into a memory map, and many at once gain nothing.
      meta: what `store.json` says.
      geometry: valid pixels and patch grid.
      tr: seconds between frames.
      runs: the lines of `runs.jsonl`, in key order.
      preprocessing: how the frames were made.
      has_scale: whether the mean and standard deviation before z-scoring are stored.
      restricted: fields of `runs` that reports, logs and models must not show.
    """

    def __init__(self, path: str | os.PathLike, cache: BlockCache | None = None):
        """Opens a store.

        Args:
          path: a directory, or its URL in a bucket (`gs://`, `s3://`) or on a web server.
          cache: where blocks of its arrays are kept once read; then nothing is memory-mapped.

        Raises:
          InputError: it is missing or damaged, or its parts contradict each other.
        """
        files = self._files = StoreFiles(path)
        self.path: Path | str = files.place
        self.meta = _read_meta(files)
        self.geometry = _read_geometry(files, self.meta)
        lines = files.read("runs.jsonl")
        self.runs = parse_run_lines(lines, files.where("runs.jsonl"))
        self.tr = float(self.meta["tr"])
        self.preprocessing: dict[str, Any] = self.meta["preprocessing"]
        self.restricted = frozenset(self.meta.get("restricted", []))
        self.has_scale = files.has("stats/mean.npy") or files.has("stats/std.npy")
        self._missing = [_missing_offsets(run, self.geometry, self.path) for run in self.runs]
        _check_runs(self.path, self.meta, self.runs)
        arrays = self._arrays()
        self._offsets = dict(zip(arrays, files.offsets(list(arrays.values())), strict=True))
        self._cache = cache
        self.is_mapped = not files.remote and cache is None
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

    def read(self, run: int, start: int, n_frames: int) -> np.ndarray:
        """Frames [start, start + n_frames) of a run.

        Args:
          run: index into `runs`.
          start: first frame, counted from the beginning of the run.
          n_frames: number of frames, at least 1.

        Returns:
          (n_frames, N, P) float16, read only; a view of a file that is mapped: nothing is copied.

        Raises:
          InputError: the run does not have these frames, or they cannot be had.
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
        return self._rows(f"shard {line['shard']}")[first : first + n_frames]

    def scale(self, run: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation of a run before z-scoring, each (N, P) float32, or None."""
        if not self.has_scale:
            return None
        return self._rows("mean")[run], self._rows("std")[run]

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
        frame_bytes = self.geometry.n_patches * self.geometry.patch_dim * FRAME_DTYPE.itemsize
        step = max(1, _CHECK_BYTES // frame_bytes)
        for run, line in enumerate(self.runs):
            checksum = 0
            for start in range(0, line["n_frames"], step):
                piece = self.read(run, start, min(step, line["n_frames"] - start))
                checksum = zlib.crc32(as_bytes(piece), checksum)
            intact = checksum == line["crc32"]
            if self.has_scale and "scale_crc32" in line:
                intact &= scale_checksum(*self.scale(run)) == line["scale_crc32"]
            yield line["key"], intact

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
        # The cache locks itself, and a view keeps its map alive after the cache has dropped it.
        self._rows = functools.lru_cache(_OPEN_SHARDS)(self._open)

    def _open(self, name: str) -> np.ndarray | Rows:
        file, shape, dtype = self._arrays()[name]
        where = self._files.where(file)
        if self.is_mapped:
            return open_array(where, shape, dtype)
        blocks = self._cache and (self._cache, self._digest, name.replace(" ", "-"))
        ranged = RangedFile(where, self._files.retries)
        return Rows(ranged, self._offsets[name], shape, dtype, blocks)


def scale_checksum(mean: np.ndarray, std: np.ndarray) -> int:
    """crc32 of the stored scale of a run: the bytes of its mean, then of its std."""
    return zlib.crc32(as_bytes(std), zlib.crc32(as_bytes(mean)))


def parse_json(
    text: str | bytes, where: Path | str, fix: str = "copy or make its store again"
) -> dict[str, Any]:
    """A JSON object in a file of ours; InputError with the fix if there is none, or a NaN in it."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is damaged ({error}): {fix}.") from error
    return value


def parse_run_lines(data: bytes, path: Path | str) -> list[dict[str, Any]]:
    """The lines of a `runs.jsonl`, their places and checksums checked for type only."""
    runs = []
    for number, text in enumerate(data.splitlines(), 1):
        where = f"Line {number} of {path}"
        run = parse_json(text, where)
        _require(run, where, key=str, n_frames=int, shard=int, first_frame=int, crc32=int)
        others = {"tr": (int, float), "qc": dict, "scale_crc32": int, "events": list}
        _require(run, where, **{x: others[x] for x in others if run.get(x) is not None})
        if not all(isinstance(event, dict) for event in run.get("events") or []):
            raise InputError(f"{where} is damaged (events): copy or make its store again.")
        runs.append(run)
    return runs


def _require(record: dict[str, Any], where: Path | str, **types: type | tuple) -> None:
    """Refuses a record without these fields, or with fields of other types."""
    for name, kind in types.items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            what = "a wrong" if name in record else "no"
            raise InputError(f"{where} is damaged ({what} '{name}'): copy or make its store again.")


def _read_meta(files: StoreFiles) -> dict[str, Any]:
    store, path = files.place, files.where("store.json")
    if not files.remote and not store.is_dir():
        if store.with_name(f"{store.name}.partial").is_dir():
            fix = "it is not finished, so run the command that makes it again"
        else:
            fix = "check the path, or make it with python -m data_tools.convert"
        raise InputError(f"There is no store at {store}: {fix}.")
    if not files.has("store.json"):
        raise InputError(f"{store} is not a store (it has no store.json): check the path.")
    meta = parse_json(files.read("store.json"), path)
    if meta.get("format") != STORE_FORMAT:
        raise InputError(f"{path} is not of the format '{STORE_FORMAT}': check the path.")
    if meta.get("version") != STORE_VERSION:
        raise InputError(
            f"{store} is a store of version {meta.get('version')!r} and this fmrifm reads version "
            f"{STORE_VERSION}: use the fmrifm that made it, or make the store again."
        )
    _require(meta, path, dtype=str, tr=(int, float), n_runs=int, n_frames=int, n_patches=int)
    _require(meta, path, patch_dim=int, shards=list, geometry_sha256=str, preprocessing=dict)
    if not isinstance(meta.get("provenance") or {}, dict):
        raise InputError(f"{path} is damaged (provenance): copy or make its store again.")
    names = meta.get("restricted", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{path} is damaged (restricted): copy or make its store again.")
    if meta["dtype"] != FRAME_DTYPE.name or not (meta["tr"] > 0 and math.isfinite(meta["tr"])):
        raise InputError(f"{path} is damaged (dtype or tr): copy or make its store again.")
    for shard in meta["shards"]:
        _require(shard if isinstance(shard, dict) else {}, path, file=str, frames=int)
        file = PurePosixPath(shard["file"])
        # A store from elsewhere must not make us read files outside of it.
        if file.is_absolute() or ".." in file.parts:
            raise InputError(f"{path} lists the shard {file} outside of the store: do not use it.")
    return meta


def _read_geometry(files: StoreFiles, meta: dict[str, Any]) -> Geometry:
    path, data = files.where("geometry.npz"), files.read("geometry.npz")
    if hashlib.sha256(data).hexdigest() != meta["geometry_sha256"]:
        raise InputError(f"{path} does not match its checksum: copy or make its store again.")
    geometry = parse_geometry(data, path)
    if (geometry.n_patches, geometry.patch_dim) != (meta["n_patches"], meta["patch_dim"]):
        raise InputError(f"{path} has other patches than store.json: make the store again.")
    return geometry


def _missing_offsets(
    run: dict[str, Any], geometry: Geometry, store: Path | str
) -> np.ndarray | None:
    if run.get("missing") is None:
        return None
    try:
        missing = np.array(run["missing"], np.int64).reshape(-1)
    except (ValueError, TypeError, OverflowError):
        missing = np.array([-1])
    last = geometry.n_patches * geometry.patch_dim - 1
    ascends = (np.diff(missing) > 0).all()
    if missing.size and not (missing[0] >= 0 and missing[-1] <= last and ascends):
        raise InputError(
            f"Run {run['key']} of {store} has wrong 'missing' offsets: make the store again."
        )
    missing.flags.writeable = False
    return missing


def _check_runs(store: Path | str, meta: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Checks that the runs lie one after the other and fill the shards exactly."""
    frames = [shard["frames"] for shard in meta["shards"]]
    if len(runs) != meta["n_runs"] or sum(frames) != meta["n_frames"]:
        raise InputError(
            f"{store} holds {len(runs)} runs and {sum(frames)} frames where store.json says "
            f"{meta['n_runs']} and {meta['n_frames']}: copy or make it again."
        )
    if len({run["key"] for run in runs}) != len(runs):
        raise InputError(f"{store} lists a run key twice: make it again.")
    shard, frame = 0, 0
    for run in runs:
        if shard < len(frames) and frame == frames[shard]:
            shard, frame = shard + 1, 0
        if (run["shard"], run["first_frame"]) != (shard, frame) or run["n_frames"] < 1:
            raise InputError(f"Run {run['key']} of {store} is out of place: make the store again.")
        frame += run["n_frames"]
    if not runs or (shard, frame) != (len(frames) - 1, frames[-1]):
        raise InputError(f"The runs of {store} do not fill its shards: copy or make it again.")
