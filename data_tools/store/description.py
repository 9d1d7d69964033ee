"""Parses and validates store.json, geometry.npz and the lines of runs.jsonl."""

import hashlib
import math
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry, parse_geometry
from data_tools.store.arrays import StoreFiles
from data_tools.store.json_text import parse_json

STORE_FORMAT = "fmrifm-store"
STORE_VERSION = 1
FRAME_DTYPE = np.dtype("<f2")
SCALE_DTYPE = np.dtype("<f4")


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


def read_meta(files: StoreFiles, check_files: bool) -> dict[str, Any]:
    """The object in store.json; `check_files` has all that is read compared with checksums."""
    store, path = files.place, files.where("store.json")
    if not files.remote and not store.is_dir():
        if store.with_name(f"{store.name}.partial").is_dir():
            fix = "it is not finished, so run the command that makes it again"
        else:
            fix = "check the path, or make it with python -m data_tools.convert"
        raise InputError(f"There is no store at {store}: {fix}.")
    if not files.has("store.json"):
        raise InputError(f"{store} is not a store (it has no store.json): check the path.")
    if check_files:
        files.read_sums()
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


def read_geometry(files: StoreFiles, meta: dict[str, Any]) -> Geometry:
    """The geometry of a store, which store.json names by its checksum."""
    path, data = files.where("geometry.npz"), files.read("geometry.npz")
    if hashlib.sha256(data).hexdigest() != meta["geometry_sha256"]:
        raise InputError(f"{path} does not match its checksum: copy or make its store again.")
    geometry = parse_geometry(data, path)
    if (geometry.n_patches, geometry.patch_dim) != (meta["n_patches"], meta["patch_dim"]):
        raise InputError(f"{path} has other patches than store.json: make the store again.")
    return geometry


def missing_offsets(
    run: dict[str, Any], geometry: Geometry, store: Path | str
) -> np.ndarray | None:
    """(M,) int64 from the list in a line, ascending and read-only, or None if there is none."""
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


def check_places(store: Path | str, meta: dict[str, Any], runs: list[dict[str, Any]]) -> None:
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
