"""Published tar shards (WebDataset): how runs are read from one.

```
KEY.meta.json  KEY.events.json  KEY.bold.npy  KEY.mask.npz       the older release: "older"
KEY.meta.json  KEY.bold.npy  KEY.mean.npy  KEY.std.npy           the newer, of any space: "newer"
```
Members of a run follow one another, in any order. They are streamed: nothing is extracted by name,
and memory holds one run. Letters in array names: T frames, C columns, H x W pixels.
"""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.outcomes import Outcome
from data_tools.published.runs import PublishedRun
from data_tools.remote import base_name, open_binary
from data_tools.store_checks import SET_BY_WRITER
from data_tools.surface_run import told_tr

FIELDS = {"sub": "subject", "ses": "session"}
FORMS = {
    "older": ("meta.json", "events.json", "bold.npy", "mask.npz"),
    "newer": ("meta.json", "bold.npy", "mean.npy", "std.npy"),
}
_LARGEST_JSON = 2**26
# What the store says of a run itself, or of its place there.
_OWN = SET_BY_WRITER | {
    *("key", "events", "missing", "n_frames", "tr"),
    *("frames_TxNxP", "mean", "std"),
}

Members = dict[str, bytes]


class _Archive(tarfile.TarFile):
    """Knows whether it came to the blocks that end a tar: tarfile does not mind if they are not."""

    end_seen = False


class _Member(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            archive.end_seen = True
            raise


def read_shard(place: str, tr: float | None) -> Iterator[PublishedRun | Outcome]:
    """Yields the runs of a shard.

    Args:
      place: path or URL of the tar.
      tr: seconds between frames where the metadata do not tell; None takes 1.

    Yields:
      Runs, with the mask that came with them in `mask_HxW`, and an outcome with its reason for each
      that is no good.

    Raises:
      InputError: the file is no tar, is truncated or empty, or out to do harm.
    """
    masks: dict[bytes, np.ndarray] = {}
    for key, members in _runs(place, _whole):
        name = f"Run {key} of {base_name(place)}"
        try:
            yield _run(key, members, name, tr or 1.0, masks)
        except InputError as error:
            yield Outcome(key, Path(base_name(place)), str(error))


def scan_shard(place: str) -> Iterator[tuple[str, int, int] | Outcome]:
    """Yields the key, frames and columns of each run of a shard, from headers alone.

    Raises:
      InputError: as `read_shard`.
    """
    for key, members in _runs(place, _beginning, seekable=True):
        name = f"Run {key} of {base_name(place)}"
        try:
            _check_members(members, name)
            shape, _, _ = _npy_header(members["bold.npy"], f"The bold of {name}")
            yield key, *shape
        except InputError as error:
            yield Outcome(key, Path(base_name(place)), str(error))


def _runs(place: str, read, seekable: bool = False) -> Iterator[tuple[str, Members]]:
    """Keys and members of the runs of a tar."""
    name, empty = base_name(place), True
    with open_binary(place, seekable) as file:
        try:
            mode = "r:*" if seekable else "r|*"
            with _Archive.open(fileobj=file, mode=mode, tarinfo=_Member) as archive:
                members = _members(archive, name, read)
                for key, group in itertools.groupby(members, lambda member: member[0]):
                    empty = False
                    yield key, {suffix: data for _, suffix, data in group}
        except (tarfile.TarError, EOFError) as error:
            raise InputError(
                f"{name} is no tar, or is damaged or truncated ({error}): get it again."
            ) from error
    if empty:
        raise InputError(f"{name} holds no run: check the pattern, or get it again.")


def _members(archive: _Archive, name: str, read) -> Iterator[tuple[str, str, bytes]]:
    """Key, suffix and bytes of the members of an archive that belong to runs."""
    for info in archive:
        if re.match(r"[/\\]|[A-Za-z]:", info.name) or ".." in re.split(r"[/\\]", info.name):
            raise InputError(
                f"{name} holds a file named {info.name!r}, which leads out of it: get it from its "
                "source again."
            )
        if info.isdir():
            continue
        if not info.isfile():
            raise InputError(
                f"{name} holds {info.name!r}, which is no file: get it from its source again."
            )
        key, dot, suffix = info.name.rsplit("/", 1)[-1].partition(".")
        if not (key and dot):
            continue
        if suffix.endswith(".json") and info.size > _LARGEST_JSON:
            raise InputError(f"{name} holds {info.size:,} bytes of {info.name}: get it again.")
        yield key, suffix, read(archive.extractfile(info))
        # tarfile remembers every member; of streams of many that is a leak.
        archive.members = []
    if not archive.end_seen:
        raise tarfile.ReadError("its end is missing")


def _whole(file: io.BufferedIOBase) -> bytes:
    return file.read()


def _beginning(file: io.BufferedIOBase) -> bytes:
    return file.read(4096)


def _run(
    key: str, members: Members, name: str, tr: float, masks: dict[bytes, np.ndarray]
) -> PublishedRun:
    _check_members(members, name)
    meta = _json(members["meta.json"], dict, f"The metadata of {name}")
    events = None
    if "events.json" in members:
        events = _json(members["events.json"], list, f"The events of {name}")
    bold = _array(members.pop("bold.npy"), f"The bold of {name}")
    if bold.dtype not in (np.float16, np.float32) or bold.ndim != 2:
        raise InputError(
            f"The bold of {name} is {bold.dtype} of the shape {bold.shape}, not frames x columns "
            "of float16: get it again."
        )
    scale = [
        _array(members[f"{part}.npy"], f"The {part} of {name}").reshape(-1)
        if f"{part}.npy" in members
        else None
        for part in ("mean", "std")
    ]
    mask = None
    if (data := members.get("mask.npz")) is not None:
        masks[data] = mask = masks.get(data) if data in masks else _mask(data, name)
        if mask.sum() != bold.shape[1]:
            raise InputError(
                f"The bold of {name} has {bold.shape[1]:,} columns and its mask {mask.sum():,} "
                "pixels: get it again."
            )
    own_tr = meta.get("tr")
    if not isinstance(own_tr, int | float | None):
        raise InputError(f"The metadata of {name} give no number as TR: get the shard again.")
    return PublishedRun(
        key,
        bold,
        told_tr(own_tr) or tr,
        {FIELDS.get(name, name): value for name, value in meta.items() if name not in _OWN},
        events,
        *scale,
        missing_C=_missing(meta, bold.shape[1], name),
        mask_HxW=mask,
    )


def _check_members(members: Members, name: str) -> None:
    """Refuses a run whose members are neither of the older nor of the newer form, whole."""
    form = "newer" if members.keys() & {"mean.npy", "std.npy"} else "older"
    missing = [member for member in FORMS[form] if member not in members]
    if missing:
        raise InputError(f"{name} has no {missing[0]} in the tar: get the shard again.")


def _missing(meta: dict[str, Any], width: int, name: str) -> np.ndarray | None:
    """(C,) bool: the columns without data, where a store that was exported told them."""
    if "missing" not in meta:
        return None
    missing = np.zeros(width, bool)
    try:
        missing[np.array(meta["missing"], np.int64)] = True
    except (ValueError, TypeError, IndexError):
        raise InputError(
            f"The metadata of {name} do not list missing columns: get it again."
        ) from None
    return missing


def _mask(data: bytes, name: str) -> np.ndarray:
    """(H, W) bool of a sparse matrix as SciPy saves it."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            shape = tuple(int(n) for n in file["shape"])
            mask = np.zeros(shape, bool)
            mask[file["row"], file["col"]] = file["data"].astype(bool)
    except Exception as error:
        # A damaged zip of arrays fails in a dozen ways.
        raise InputError(f"The mask of {name} is damaged: get the shard again.") from error
    if mask.ndim != 2:
        raise InputError(f"The mask of {name} is no image: get it again.")
    return mask


def _json(data: bytes, kind: type, what: str) -> Any:
    try:
        # NaN is not JSON, but Python writes it: it says nothing.
        value = json.loads(data, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} are damaged ({error}): get the shard again.") from error
    if not isinstance(value, kind) or not all(isinstance(x, dict) for x in value if kind is list):
        raise InputError(f"{what} are not what they should be: get the shard again.")
    return value


def _npy_header(data: bytes, what: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and where the values begin."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, fortran, dtype = read(file)
        if fortran and len(shape) > 1 or dtype.hasobject:
            raise ValueError("columns first, or objects")
    except (ValueError, EOFError, AttributeError) as error:
        raise InputError(f"{what} is damaged ({error}): get the shard again.") from error
    return shape, dtype, file.tell()


def _array(data: bytes, what: str) -> np.ndarray:
    """The array of a `.npy` file in memory, not copied."""
    shape, dtype, start = _npy_header(data, what)
    size = int(np.prod(shape))
    if len(data) - start != size * dtype.itemsize:
        raise InputError(f"{what} is damaged (another size than it says): get the shard again.")
    return np.frombuffer(data, dtype, size, start).reshape(shape)
