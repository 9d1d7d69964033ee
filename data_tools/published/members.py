"""What the members of published tar shards hold, from their bytes.

Letters in array names: H x W pixels.
"""

import io
import json
from typing import Any

import numpy as np

from data_tools.errors import InputError

# Far more pixels than a map of the cortex has; a mask lists row, column and value of each.
_LARGEST_MASK = 2**22


def read_mask(data: bytes, name: str) -> np.ndarray:
    """(H, W) bool of a sparse matrix as SciPy saves it.

    Raises:
      InputError: it is damaged, no image, or unreasonably large.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            # What little bytes unpack to, and what a shape asks for, can be anything.
            if sum(info.file_size for info in file.zip.infolist()) > 20 * _LARGEST_MASK:
                raise ValueError("too large")
            shape = tuple(int(n) for n in file["shape"])
            row, column = file["row"], file["col"]
            below = min(row.min(initial=0), column.min(initial=0)) < 0
            if np.prod(shape, dtype=float) > _LARGEST_MASK or below:
                raise ValueError("no mask")
            mask = np.zeros(shape, bool)
            mask[row, column] = file["data"].astype(bool)
    except Exception as error:
        # A damaged zip of arrays fails in a dozen ways.
        raise InputError(f"The mask of {name} is damaged: get the shard again.") from error
    if mask.ndim != 2:
        raise InputError(f"The mask of {name} is no image: get it again.")
    return mask


def read_json(data: bytes, kind: type, what: str) -> Any:
    """A JSON value of a kind: dict, or list of objects.

    Raises:
      InputError: it is damaged, or of another kind.
    """
    try:
        # NaN is not JSON, but Python writes it: it says nothing.
        value = json.loads(data, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} are damaged ({error}): get the shard again.") from error
    if not isinstance(value, kind) or not all(isinstance(x, dict) for x in value if kind is list):
        raise InputError(f"{what} are not what they should be: get the shard again.")
    return value


def read_npy_header(data: bytes, what: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and where the values begin.

    Raises:
      InputError: it is no header of a plain array in row order.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, dtype = read(file)
        if fortran and len(shape) > 1 or dtype.hasobject:
            raise ValueError("columns first, or objects")
    except Exception as error:
        # The header is Python's notation: damaged, it fails in all the ways of its tokenizer.
        reason = " ".join(str(error).split())
        raise InputError(f"{what} is damaged ({reason}): get the shard again.") from error
    return shape, dtype, file.tell()


def read_array(data: bytes, what: str) -> np.ndarray:
    """The array of a `.npy` file in memory, not copied.

    Raises:
      InputError: it is damaged.
    """
    shape, dtype, start = read_npy_header(data, what)
    size = int(np.prod(shape))
    if len(data) - start != size * dtype.itemsize:
        raise InputError(f"{what} is damaged (another size than it says): get the shard again.")
    return np.frombuffer(data, dtype, size, start).reshape(shape)
