"""Writes tar shards in the published forms by hand, as tests of their import need them."""

import io
import json
import tarfile

import numpy as np
from scipy import sparse

MASK = np.zeros((32, 48), bool)
MASK[3:29, 5:44] = np.random.default_rng(0).random((26, 39)) < 0.8
N_COLUMNS = int(MASK.sum())


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def mask_npz(mask=MASK):
    buffer = io.BytesIO()
    sparse.save_npz(buffer, sparse.coo_array(mask), compressed=False)
    return buffer.getvalue()


def bold(key, n_frames=20, n_columns=N_COLUMNS):
    """(T, C) float16, the same whenever it is asked for; the first column has no data."""
    rng = np.random.default_rng(sum(key.encode()))
    values = rng.normal(size=(n_frames, n_columns)).astype(np.float16)
    values[:, 0] = 0
    return values


def older(key, n_frames=20, **meta):
    """The members of a run of the older release."""
    events = [{"onset": 2.5, "duration": 3.0, "trial_type": "lf", "value": float("nan")}]
    meta = {"sub": key[-2:], "mod": "tfMRI", "task": "MOTOR", "n_frames": n_frames} | meta
    return {
        "meta.json": json.dumps(meta).encode(),
        "events.json": json.dumps(events).encode(),
        "bold.npy": npy(bold(key, n_frames)),
        "mask.npz": mask_npz(),
    }


def newer(key, n_frames=20, n_columns=N_COLUMNS, **meta):
    """The members of a run of the newer release."""
    rng = np.random.default_rng(1)
    meta = {"sub": key[-2:], "ses": "1", "path": "a/b", "n_frames": n_frames, "tr": 0.72} | meta
    return {
        "bold.npy": npy(bold(key, n_frames, n_columns)),
        "mean.npy": npy(rng.normal(1e4, 10, (1, n_columns)).astype(np.float32)),
        "meta.json": json.dumps(meta).encode(),
        "std.npy": npy(rng.uniform(50, 60, n_columns).astype(np.float32)),
    }


def write_shard(path, runs, folder=""):
    """Writes {key: members} as a tar."""
    with tarfile.open(path, "w") as archive:
        for key, members in runs.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{folder}{key}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path
