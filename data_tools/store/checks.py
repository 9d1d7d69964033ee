"""What a run must be to enter a store, and where nothing else may be written."""

import math
import numbers
import os
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.store.description import FRAME_DTYPE, SCALE_DTYPE, STORE_FORMAT
from data_tools.store.json_text import to_json

SET_BY_WRITER = frozenset({"n_frames", "shard", "first_frame", "crc32", "scale_crc32"})
# Names of metadata from elsewhere that mean something else in a run table, or to `StoreWriter.add`.
RESERVED = SET_BY_WRITER | {"key", "events", "missing", "tr", "frames_TxNxP", "mean", "std"}
_ALWAYS_THERE = ("dataset", "subject", "session", "task")


def refuse_inside_store(path: str | os.PathLike, flag: str = "--output") -> None:
    """Refuses a directory to be written that is a store or lies in one."""
    place = Path(path).resolve()
    for folder in (place, *place.parents):
        if (folder / "store.json").is_file():
            raise InputError(
                f"{flag}={path} is in the store {folder}, where nothing else may be written: "
                "choose another path."
            )


class TargetExistsError(InputError):
    """Something is where a new store should appear."""


def check_target(path: Path, overwrite: bool) -> None:
    """Refuses a path at which a new store must not appear."""
    refuse_inside_store(path.parent)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise TargetExistsError(
            f"{path} exists already: choose another path, or ask to overwrite it."
        )
    meta = path / "store.json"
    # Replacing deletes a whole directory: never one that is something else.
    if not (meta.is_file() and STORE_FORMAT.encode() in meta.read_bytes()):
        raise InputError(
            f"{path} exists and is not a store, so it is not overwritten: choose another path."
        )


def checked_frames(key: str, frames: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The frames of run `key` as a store holds them: (T, N, P) float16, C order; a copy if need be.

    Refuses a wrong shape or dtype, no frame, values that are not finite or too large for float16,
    and values off the cortex.
    """
    frames = np.asarray(frames)
    patches = (geometry.n_patches, geometry.patch_dim)
    if frames.ndim != 3 or frames.shape[1:] != patches or not len(frames):
        raise InputError(
            f"Run {key} has the shape {frames.shape} where (frames, {patches[0]}, {patches[1]}) is "
            "needed, with at least one frame."
        )
    if frames.dtype not in (np.float16, np.float32):
        raise InputError(f"Run {key} is {frames.dtype}: cast it to float16 or float32.")
    if not np.isfinite(frames).all():
        raise InputError(f"Run {key} has NaN or infinite values: mend the run or leave it out.")
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(frames, FRAME_DTYPE)
    if frames.dtype != FRAME_DTYPE and not np.isfinite(half).all():
        raise InputError(
            f"Run {key} has values up to {np.abs(frames).max():.4g}, too large for float16: "
            "z-score or scale it first."
        )
    if half[:, ~geometry.patch_mask].any():
        raise InputError(f"Run {key} has values off the cortex that are not 0: set them to 0.")
    return half


def checked_line(
    key: str,
    fields: dict[str, Any],
    missing: np.ndarray | None,
    geometry: Geometry,
    tr: float,
) -> dict[str, Any]:
    """The metadata of run `key`, as far as they do not depend on its frames and place.

    `missing` holds offsets into a flat N * P frame, in any order, and `tr` is that of the store,
    for runs without one of their own. Refuses a run without a key, fields that the writer sets,
    wrong offsets, and values that JSON cannot hold.
    """
    if not isinstance(key, str) or not key.strip():
        raise InputError(f"{key!r} cannot be the key of a run: give it a name.")
    if taken := sorted(set(fields) & SET_BY_WRITER):
        raise InputError(f"Run {key} has the field '{taken[0]}', which the store itself sets.")
    line = dict.fromkeys(_ALWAYS_THERE, "") | fields | {"key": key}
    line["tr"] = tr if line.get("tr") is None else float(line["tr"])
    if not (line["tr"] > 0 and math.isfinite(line["tr"])):
        raise InputError(f"Run {key} has the TR {line['tr']}: give the seconds between frames.")
    events = line.get("events")
    if not isinstance(events, list | None) or not all(isinstance(e, dict) for e in events or []):
        raise InputError(f"Run {key} has events that are not a list of dicts.")
    check_onsets(events or [], f"Run {key}")
    if missing is not None and np.size(missing):
        offsets, size = np.unique(missing), geometry.patch_mask.size
        if offsets.dtype.kind not in "iu" or offsets[0] < 0 or offsets[-1] >= size:
            raise InputError(
                f"Run {key} has 'missing' offsets that are not integers from 0 to {size - 1}."
            )
        if np.isin(np.flatnonzero(geometry.patch_mask), offsets).all():
            raise InputError(f"Run {key} misses every pixel: leave it out.")
        line["missing"] = offsets.tolist()
    to_json(line, f"Run {key}")
    return line


def check_onsets(events: list[dict[str, Any]], name: str) -> None:
    """Refuses events of a run that do not say when they begin."""
    for event in events:
        onset = event.get("onset")
        if not isinstance(onset, numbers.Real) or type(onset) is bool or not math.isfinite(onset):
            what = f"the onset {onset!r}" if "onset" in event else "no onset"
            raise InputError(
                f"{name} has an event with {what}: mend its events, onsets are numbers of seconds."
            )


def checked_scale(
    key: str, mean: np.ndarray | None, std: np.ndarray | None, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and std of a run, each (N, P) float32, or None if it has neither."""
    if mean is None and std is None:
        return None
    shape, scale = (geometry.n_patches, geometry.patch_dim), []
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            raise InputError(f"Run {key} has no {name}: give both mean and std, or neither.")
        if np.shape(value) != shape:
            raise InputError(f"Run {key} has a {name} of {np.shape(value)}, not of {shape}.")
        scale.append(np.ascontiguousarray(value, SCALE_DTYPE))
        if not np.isfinite(scale[-1]).all():
            raise InputError(f"Run {key} has NaN or infinite values in its {name}.")
    return scale[0], scale[1]
