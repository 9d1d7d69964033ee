"""Published tar shards (WebDataset): how runs are read from one.

```
KEY.meta.json  KEY.events.json  KEY.bold.npy  KEY.mask.npz       the older release: "older"
KEY.meta.json  KEY.bold.npy  KEY.mean.npy  KEY.std.npy           the newer, of any space: "newer"
```
Members of a run follow one another, in any order. A run is named by what stands before the first
dot, without folders.
Letters in array names: T frames, C columns, H x W pixels.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError
from data_tools.files.json_files import parse_json_value
from data_tools.files.npy import parse_array, parse_arrays, read_header
from data_tools.files.remote import base_name, can_seek
from data_tools.published.source import WRONG_TR, PublishedRun
from data_tools.published.tar_members import Members, read_members, read_whole
from data_tools.readers.surface_run import told_tr
from data_tools.store.checks import RESERVED
from data_tools.timeseries.recipe import check_tr

_FIX = "get the shard again"
# Far more pixels than a map of the cortex has; a mask lists row, column and value of each.
_LARGEST_MASK = 2**22


def read_mask(data: bytes, name: str) -> np.ndarray:
    """(H, W) bool of a sparse matrix as SciPy saves it."""
    fields = parse_arrays(data, f"The mask of {name}", _FIX, 20 * _LARGEST_MASK)
    try:
        shape = tuple(int(n) for n in fields["shape"])
        row, column = fields["row"], fields["col"]
        below = min(row.min(initial=0), column.min(initial=0)) < 0
        if np.prod(shape, dtype=float) > _LARGEST_MASK or below:
            raise ValueError("no mask")
        mask = np.zeros(shape, bool)
        mask[row, column] = fields["data"].astype(bool)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"The mask of {name} is damaged: get the shard again.") from error
    if mask.ndim != 2:
        raise InputError(f"The mask of {name} is no image: get it again.")
    return mask


def read_json(data: bytes, kind: type, what: str) -> Any:
    """A JSON value of a kind: dict, or list of objects."""
    value = parse_json_value(data, what, _FIX, kind, nan=None)
    if kind is list and not all(isinstance(x, dict) for x in value):
        raise InputError(f"{what} are not what they should be: {_FIX}.")
    return value


FIELDS = {"sub": "subject", "ses": "session"}
FORMS = {
    "older": ("meta.json", "events.json", "bold.npy", "mask.npz"),
    "newer": ("meta.json", "bold.npy", "mean.npy", "std.npy"),
}
_LONGEST_TR = 3600


def read_shard(place: str, tr: float | None) -> Iterator[PublishedRun | Outcome]:
    """Yields the runs of a shard, a path or URL, and an outcome with its reason for each bad one.

    `tr` is in seconds, for metadata that do not tell; None takes 1. The mask that came with a run
    is in its `mask_HxW`. InputError if the file is no tar, is truncated or empty, or out to do
    harm.
    """
    masks: dict[bytes, np.ndarray] = {}
    for key, members in read_members(place, read_whole):
        name = f"Run {key} of {base_name(place)}"
        try:
            yield _run(key, members, name, tr or 1.0, masks)
        except InputError as error:
            yield Outcome(key, Path(base_name(place)), str(error))


def scan_shard(place: str) -> Iterator[tuple[str, int, int] | Outcome]:
    """Yields the key, frames and columns of each run of a shard, from headers alone."""
    for key, members in read_members(place, _read_header, can_seek(place)):
        name = f"Run {key} of {base_name(place)}"
        try:
            _check_members(members, name)
            head = io.BytesIO(members["bold.npy"])
            shape, _, dtype = read_header(head, f"The bold of {name}", _FIX)
            _check_bold(shape, dtype, name)
            meta = read_json(members["meta.json"], dict, f"The metadata of {name}")
            if tr := _own_tr(meta.get("tr"), name):
                check_tr(tr, f"The TR of {name}", WRONG_TR)
            yield key, *shape
        except InputError as error:
            yield Outcome(key, Path(base_name(place)), str(error))


def _read_header(suffix: str, file: io.BufferedIOBase) -> bytes:
    return read_whole(suffix, file) if suffix == "meta.json" else file.read(4096)


def _run(
    key: str, members: Members, name: str, tr: float, masks: dict[bytes, np.ndarray]
) -> PublishedRun:
    _check_members(members, name)
    meta = read_json(members["meta.json"], dict, f"The metadata of {name}")
    events = None
    if "events.json" in members:
        events = read_json(members["events.json"], list, f"The events of {name}")
    bold = parse_array(members.pop("bold.npy"), f"The bold of {name}", _FIX)
    _check_bold(bold.shape, bold.dtype, name)
    mean, std = (_scale(members, part, name) for part in ("mean", "std"))
    mask = None
    if (data := members.get("mask.npz")) is not None:
        masks[data] = mask = masks.get(data) if data in masks else read_mask(data, name)
        if mask.sum() != bold.shape[1]:
            raise InputError(
                f"The bold of {name} has {bold.shape[1]:,} columns and its mask {mask.sum():,} "
                "pixels: get it again."
            )
    return PublishedRun(
        key,
        bold,
        _own_tr(meta.get("tr"), name) or tr,
        {FIELDS.get(name, name): value for name, value in meta.items() if name not in RESERVED},
        events,
        mean,
        std,
        missing_C=_missing(meta, bold.shape[1], name),
        mask_HxW=mask,
    )


def _check_members(members: Members, name: str) -> None:
    """Refuses a run whose members are neither of the older nor of the newer form, whole."""
    form = "newer" if members.keys() & {"mean.npy", "std.npy"} else "older"
    missing = [member for member in FORMS[form] if member not in members]
    if missing:
        raise InputError(f"{name} has no {missing[0]} in the tar: get the shard again.")


def _check_bold(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    if dtype not in (np.float16, np.float32) or len(shape) != 2:
        raise InputError(
            f"The bold of {name} is {dtype} of the shape {shape}, not frames x columns of float16: "
            "get it again."
        )


def _scale(members: Members, part: str, name: str) -> np.ndarray | None:
    """(C,) mean or standard deviation of a run, None if it has none."""
    if f"{part}.npy" not in members:
        return None
    what = f"The {part} of {name}"
    array = parse_array(members[f"{part}.npy"], what, _FIX).reshape(-1)
    if array.dtype.kind != "f":
        raise InputError(f"{what} is {array.dtype}, not float32: get the shard again.")
    return array


def _own_tr(tr: Any, name: str) -> float | None:
    """The TR that metadata tell, None if they do not."""
    if tr is None:
        return None
    if isinstance(tr, bool) or not isinstance(tr, int | float) or not 0 <= tr <= _LONGEST_TR:
        raise InputError(f"The metadata of {name} give no number as TR: get the shard again.")
    return told_tr(tr)


def _missing(meta: dict[str, Any], width: int, name: str) -> np.ndarray | None:
    """(C,) bool: the columns without data, where a store that was exported told them."""
    if "missing" not in meta:
        return None
    missing = np.zeros(width, bool)
    try:
        missing[np.array(meta["missing"], np.int64)] = True
    except (ValueError, TypeError, IndexError, OverflowError):
        raise InputError(
            f"The metadata of {name} do not list missing columns: get it again."
        ) from None
    return missing
