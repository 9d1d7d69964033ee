"""Writes stores of a few pixels, for tests of what is said of runs rather than of their frames."""

import zlib
from pathlib import Path

import numpy as np

from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter


def small_geometry() -> Geometry:
    mask = np.zeros((8, 12), bool)
    mask[1:7, 2:9] = True
    return Geometry("toy", mask, (4, 4))


def make_run(key: str, geometry: Geometry) -> dict:
    """Frames, scale and missing pixels of a run, the same whenever it is called."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    shape = (rng.integers(3, 9), geometry.n_patches, geometry.patch_dim)
    frames = np.where(geometry.patch_mask, rng.standard_normal(shape, np.float32), 0)
    missing = np.flatnonzero(geometry.patch_mask)[:2] if shape[0] > 6 else None
    scale = {"mean": frames.mean(0), "std": frames.std(0)}
    return {"frames_TxNxP": frames, "missing": missing} | scale


def write_small_store(
    path: Path,
    runs: dict[str, dict],
    extra: dict[str, bytes] | None = None,
    geometry: Geometry | None = None,
    **settings,
) -> Store:
    """A store of runs given by key and fields; a field may replace the frames or the scale."""
    geometry = geometry or small_geometry()
    settings = {"tr": 1.0, "preprocessing": {"kind": "pchip"}, "provenance": {}} | settings
    with StoreWriter(path, geometry, **settings) as writer:
        for key, fields in runs.items():
            writer.add(key, **make_run(key, geometry) | fields)
        return writer.finish(extra=extra)
