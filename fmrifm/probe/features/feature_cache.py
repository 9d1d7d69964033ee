"""Files of the feature cache: arrays with checksums, and rows of arrays that are being made.

Beside `KIND.npy` lies `KIND.npy.sha256`, in the form of the command sha256sum. Arrays of earlier
versions have none and are read as they are.
"""

import contextlib
import functools
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_tools.files.atomic import write_bytes
from data_tools.files.directory_sums import file_sum
from fmrifm.runs.sealed_lines import seal, unseal

_CHUNK = 2**24  # bytes


def find_missing(directory: Path, kinds: Sequence[str]) -> list[str]:
    """The arrays that are not there or are damaged; the first process reads them for all."""
    missing = np.zeros(len(kinds), bool)
    if jax.process_index() == 0:
        missing[:] = [not _is_whole(directory / f"{kind}.npy") for kind in kinds]
    missing = multihost_utils.broadcast_one_to_all(missing)
    return [kind for kind, gone in zip(kinds, missing, strict=True) if gone]


def publish_array(made: Path, path: Path) -> None:
    """Moves an array to its place in the cache, with its checksum; a damaged one is replaced."""
    if path.exists():
        print(f"{path} was damaged, and was made again.", file=sys.stderr)
    # The checksum comes first: a kill in between leaves no array that nothing checks.
    write_bytes(_sum_path(path), f"{file_sum(made)}  {path.name}\n".encode())
    os.replace(made, path)


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return False
    return _matches(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@functools.cache  # one process asks for the same features many times
def _matches(path: Path, state: tuple[int, ...]) -> bool:
    """Whether a file in this state has its checksum, or is an array where none was kept."""
    try:
        return _sum_path(path).read_bytes() == f"{file_sum(path)}  {path.name}\n".encode()
    except FileNotFoundError:
        return fits(path)


def fits(path: Path, like: jax.ShapeDtypeStruct | None = None) -> bool:
    """Whether a file holds a whole array, by its header and size, and of a shape and dtype."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return like is None or (array.shape, array.dtype) == (like.shape, like.dtype)


class Rows:
    """Writes rows of an array in a file, in order, and keeps the CRC-32 of what was written.

    Not through a memory map: where the disk is full, that ends the process without an error.
    """

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r")
        self._path, self._offset, self._dtype = path, array.offset, array.dtype
        self._row = array[:1].nbytes
        self.crc = 0

    def __enter__(self) -> "Rows":
        self._handle = os.open(self._path, os.O_RDWR)
        return self

    def __exit__(self, *error) -> None:
        os.close(self._handle)

    def write(self, first: int, values: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(values, self._dtype)).cast("B")
        self.crc = zlib.crc32(data, self.crc)
        place = self._offset + first * self._row
        with self._naming_it():
            while data:  # a full disk may cut the first write short; the next one says why
                written = os.pwrite(self._handle, data, place)
                data, place = data[written:], place + written

    def read_crc(self, first: int, count: int) -> int:
        """The CRC-32 of rows in the file."""
        place, left, crc = self._offset + first * self._row, count * self._row, 0
        with self._naming_it():
            while data := os.pread(self._handle, min(_CHUNK, left), place):
                crc, place, left = zlib.crc32(data, crc), place + len(data), left - len(data)
        return crc

    def sync(self) -> None:
        with self._naming_it():
            os.fsync(self._handle)

    @contextlib.contextmanager
    def _naming_it(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)
            raise


def note_rows(mark: Path, count: int, files: Mapping[str, Rows]) -> None:
    """Makes the rows durable and notes how many a continued job need not make again."""
    for file in files.values():
        file.sync()
    write_bytes(mark, seal({"rows": count, "crcs": {k: file.crc for k, file in files.items()}}))


def count_rows(mark: Path, first: int, files: Mapping[str, Rows]) -> int:
    """How many rows from `first` on a killed job has left; none if they are damaged."""
    note = (unseal(mark.read_bytes()) if mark.is_file() else None) or {}
    count, crcs = note.get("rows", 0), note.get("crcs", {})
    if any(file.read_crc(first, count) != crcs.get(kind) for kind, file in files.items()):
        return 0
    for kind, file in files.items():
        file.crc = crcs[kind]
    return count
