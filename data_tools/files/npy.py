"""Plain `.npy` and `.npz` files: streamed to disk, read back by rows and checked by header.

`np.save` needs the whole array in memory and tells of a full disk with a nameless error; here the
header goes first and the data follow in pieces. What is written, `np.load` alone can read.

`np.load` takes as much memory as a header asks for, and fails in a dozen ways where one is damaged.
The readers here compare sizes with what is there before they take memory, and raise InputError.
"""

import io
import math
import os
import sys
import weakref
import zipfile
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

from data_tools.errors import InputError, as_input_errors, check_file
from data_tools.files.atomic import publish_file

_MOST_UNPACKED, _USUAL_RATIO = 2**28, 4


def publish_array(
    path: str | os.PathLike, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterable[np.ndarray]
) -> None:
    """Publishes a C-ordered array, durably, from pieces of it that follow one another."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with publish_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(as_bytes(piece))


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order, without a copy where it is C-ordered already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def data_offset(path: str | os.PathLike, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Checks that a file holds just the array expected, by its header and size.

    Returns:
      Where the data begin, in bytes.

    Raises:
      InputError: the file is missing, is no `.npy` file, or holds another array.
    """
    try:
        with open(check_file(path) if os.path.lexists(path) else path, "rb") as file:
            return check_header(file, os.fstat(file.fileno()).st_size, path, shape, dtype)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: copy or make its store again.") from None


def check_header(
    file: BinaryIO, size: int, where: str | os.PathLike, shape: tuple[int, ...], dtype: np.dtype
) -> int:
    """As `data_offset`, of a file's beginning and its size in bytes; `where` is named in errors."""
    found_shape, fortran, found_dtype = read_header(file, where, "copy or make it again", (1, 0))
    offset = file.tell()
    if found_shape != tuple(shape) or found_dtype != dtype or fortran:
        raise InputError(
            f"{where} holds {_describe(found_shape, found_dtype)}{' in Fortran order' * fortran}, "
            f"not the {_describe(shape, dtype)} that its store lists: copy or make it again."
        )
    expected = offset + math.prod(shape) * np.dtype(dtype).itemsize
    if size != expected:
        raise InputError(
            f"{where} has {size:,} bytes where {expected:,} are expected: copy or make it again."
        )
    return offset


def read_header(
    file: BinaryIO, where: str | os.PathLike, fix: str, version: tuple[int, int] | None = None
) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of a `.npy` file: shape, whether columns come first, and dtype.

    Raises:
      InputError: it is damaged, is not of the `version` that is demanded, or describes objects;
        `where` is named, and what to do about it is `fix`.
    """
    try:
        found = np.lib.format.read_magic(file)
        if version not in (None, found):
            raise ValueError("its header is of an unknown version")
        if found == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError("it holds no plain values")
    except Exception as error:
        # The header is Python's notation: damaged, it fails in all the ways of Python's tokenizer.
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{where} is damaged ({reason}): {fix}.") from error
    return shape, fortran, dtype


def parse_array(data: bytes, where: str | os.PathLike, fix: str) -> np.ndarray:
    """The read-only array in the bytes of a `.npy` file; not copied.

    Raises:
      InputError: they are damaged, or of another size than the header says.
    """
    file = io.BytesIO(data)
    shape, fortran, dtype = read_header(file, where, fix)
    size, start = math.prod(shape), file.tell()
    if len(data) - start != size * dtype.itemsize or not dtype.itemsize:
        raise InputError(f"{where} is damaged (another size than it says): {fix}.")
    array = np.frombuffer(data, dtype, size, start)
    if dtype.kind == "U":
        letters = array.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max(initial=0) > sys.maxunicode:
            raise InputError(f"{where} is damaged (its texts hold no letters): {fix}.")
    return array.reshape(shape, order="F" if fortran else "C")


def read_array(path: str | os.PathLike, fix: str = "get it again") -> np.ndarray:
    """Reads a `.npy` file as a read-only array; InputError where it is absent or damaged."""
    with as_input_errors():
        data = check_file(path).read_bytes()
    if data.startswith(b"PK"):
        raise InputError(f"{path} holds several arrays: give a .npy file with one.")
    return parse_array(data, path, fix)


def parse_arrays(
    data: bytes, where: str | os.PathLike, fix: str, most: int = _MOST_UNPACKED
) -> dict[str, np.ndarray]:
    """The arrays in the bytes of a `.npz` file, by their names.

    Args:
      most: bytes that they may hold together, if they are well packed; more is refused before
        any is unpacked, since a few packed bytes can become a thousand times as many.

    Raises:
      InputError: they are damaged, or more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(most, _USUAL_RATIO * len(data)):
                raise ValueError(f"it unpacks to {unpacked:,} bytes")
            packed = {}
            for member in members:
                with archive.open(member) as file:
                    packed[member.filename.removesuffix(".npy")] = file.read(member.file_size)
    except Exception as error:
        # A damaged zip fails in a dozen ways.
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{where} is damaged ({reason}): {fix}.") from error
    return {name: parse_array(some, where, fix) for name, some in packed.items()}


def read_arrays(path: str | os.PathLike, fix: str) -> dict[str, np.ndarray]:
    """Reads a `.npz` file, as `parse_arrays` does; InputError also where it is absent."""
    with as_input_errors():
        data = check_file(path).read_bytes()
    return parse_arrays(data, path, fix)


class ArrayFile:
    """An open array file whose rows are read when asked for; may be shared by threads.

    Rows are read by `preadv`. Copying from a memory map would be a tenth to a fifth faster, but a
    map kills the process (SIGBUS) where the file shrinks under it; here a sentence ends the work.
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, ...], dtype: np.dtype):
        """Opens a file after the checks of `data_offset`, which says what it raises."""
        self._offset = data_offset(path, shape, dtype)
        self._path, self._shape, self._dtype = path, tuple(shape), np.dtype(dtype)
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self._dtype.itemsize
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def read(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows [first, last) as a new, read-only array, or in `out`, which is C-ordered.

        Raises:
          InputError: the file does not have them any more.
          OSError: the file system cannot read them.
        """
        is_new = out is None
        out = np.empty((last - first, *self._shape[1:]), self._dtype) if is_new else out
        rest, place = as_bytes(out), self._offset + first * self._row_bytes
        while len(rest):
            try:
                n_bytes = os.preadv(self._handle, [rest], place)
            except OSError as error:
                error.filename = str(self._path)  # the system knows no name of an open file
                raise
            if not n_bytes:
                raise InputError(
                    f"{self._path} has lost bytes since it was opened: copy or make it again, and "
                    "change no file that is in use."
                )
            rest, place = rest[n_bytes:], place + n_bytes
        if is_new:
            out.flags.writeable = False
        return out

    def state(self) -> tuple[int, ...]:
        """Device, inode, size and time of change of the open file; it changes with every write."""
        found = os.fstat(self._handle)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _describe(shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{' x '.join(map(str, shape))} {np.dtype(dtype).name}"
