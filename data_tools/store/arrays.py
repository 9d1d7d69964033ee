"""The files of a store, here or in a bucket: small ones whole, arrays row by row."""

import io
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_tools.errors import InputError, check_file
from data_tools.files.block_cache import BlockCache
from data_tools.files.byte_ranges import RangedFile, Retries
from data_tools.files.npy import check_header, data_offset
from data_tools.files.remote import file_system, is_absence, is_url, remote_errors
from data_tools.store.checksums import CHECKSUMS, check_file_sum, parse_checksums

Array = tuple[str, tuple[int, ...], np.dtype]  # name of the file, shape, dtype

OPENING_PATIENCE, READING_PATIENCE = 10.0, 300.0  # seconds
_HEADER = 1024  # bytes that hold the header of any array of ours
_AT_ONCE = 32  # requests while a store is opened
_BLOCK = 2**20  # bytes of a block in the cache, about


class StoreFiles:
    """Where the files of a store lie.

    Attributes:
      place: the directory, an absolute path or a URL.
      remote: whether it is a URL.
      sums: SHA-256 by name of the files that `read` checks; empty until `read_sums`.
    """

    def __init__(self, place: str | os.PathLike):
        self.remote = is_url(place)
        self.place = str(place).rstrip("/") if self.remote else Path(place).absolute()
        self.retries = Retries(OPENING_PATIENCE)
        self.sums: dict[str, str] = {}

    def read_sums(self) -> None:
        """Reads `checksums.json`, if the store has one; InputError where it is damaged."""
        if self.has(CHECKSUMS):
            self.sums = parse_checksums(self.read(CHECKSUMS), self.where(CHECKSUMS))

    def where(self, name: str) -> str:
        """The path or URL of a file."""
        return f"{self.place}/{name}"

    def has(self, name: str) -> bool:
        """True if the store has this file, or if its checksums list it."""
        if name in self.sums:
            return True
        if not self.remote:
            # A link whose content was not fetched is there, and reading it says so.
            return os.path.lexists(self.where(name))
        files, path = file_system(self.where(name))
        with remote_errors(self.where(name)):
            try:
                self.retries.call(lambda: files.info(path))
            except FileNotFoundError as error:
                if is_absence(error):
                    return False
                raise
        return True

    def read(self, name: str) -> bytes:
        """A whole file; InputError if it is not there, cannot be read or fails its checksum."""
        data = self._read(name)
        if name in self.sums:
            check_file_sum(data, self.sums[name], self.place, name)
        return data

    def _read(self, name: str) -> bytes:
        place = self.where(name)
        if not self.remote:
            if not os.path.lexists(place):
                raise InputError(f"{place} is missing: copy or make its store again.")
            return check_file(place).read_bytes()
        files, path = file_system(place)
        with remote_errors(place):
            return self.retries.call(lambda: files.cat_file(path))

    def offsets(self, arrays: Sequence[Array]) -> list[int]:
        """Checks arrays by header and size, and tells where in their files the data begin."""
        if not self.remote:
            return [data_offset(self.where(name), *kind) for name, *kind in arrays]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._offset, arrays))

    def _offset(self, array: Array) -> int:
        name, shape, dtype = array
        file = RangedFile(self.where(name), self.retries)
        size = file.size()
        if size is None:
            raise InputError(
                f"The server of {file.place} does not tell sizes: serve the store from one that "
                "does, or copy it."
            )
        head = io.BytesIO(file.read(0, min(size, _HEADER)))
        return check_header(head, size, file.place, shape, dtype)


class Rows:
    """An array file of which rows are read when asked for; may be shared by threads and pickled."""

    def __init__(
        self,
        file: RangedFile,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        cache: tuple[BlockCache, str, str] | None = None,
    ):
        """
        Args:
          offset: bytes before the data.
          cache: with the names of the store and of this array in it.
        """
        self._file, self._offset, self._shape, self._dtype = file, offset, shape, dtype
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._cache = cache
        self._block_rows = max(1, _BLOCK // self._row_bytes)

    def read(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows [first, last) as a read-only array, or in `out`."""
        if self._cache is None:
            data, skip = self._fetch(first, last), 0
        else:
            data, skip = self._through_cache(first, last)
        shape = (last - first, *self._shape[1:])
        rows = np.frombuffer(data, self._dtype, int(np.prod(shape)), skip).reshape(shape)
        if out is None:
            return rows
        out[...] = rows
        return out

    def _fetch(self, first: int, last: int) -> bytes:
        begin, size = self._offset, self._row_bytes
        return self._file.read(begin + first * size, begin + last * size)

    def _through_cache(self, first: int, last: int) -> tuple[bytes, int]:
        """Whole blocks around the rows, and the bytes before the rows in them."""
        cache, store, array = self._cache
        per, end = self._block_rows, self._shape[0]
        blocks = range(first // per, -(-last // per))
        names = {block: f"{array}.{per}.{block}" for block in blocks}
        found = {block: cache.get(store, names[block]) for block in blocks}
        lacking = [block for block in blocks if found[block] is None]
        # Blocks follow one another, and are one request, where numbers rise as fast as places.
        for _, group in itertools.groupby(enumerate(lacking), lambda pair: pair[1] - pair[0]):
            run = [block for _, block in group]
            data = memoryview(self._fetch(run[0] * per, min((run[-1] + 1) * per, end)))
            size = per * self._row_bytes
            for i, block in enumerate(run):
                found[block] = data[i * size : (i + 1) * size]
                cache.put(store, names[block], found[block])
        return b"".join(found.values()), (first - blocks[0] * per) * self._row_bytes
