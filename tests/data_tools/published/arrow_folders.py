"""Writes Arrow folders of the published form by hand, as tests of their import need them."""

import json

import numpy as np
import pyarrow as pa

from data_tools.spaces.geometry import Geometry

GEOMETRY = Geometry("toy", np.ones((40, 1), bool), (1, 1))
CLIP_COLUMNS = {
    "sub": pa.string(), "mod": pa.string(), "task": pa.string(), "path": pa.string(),
    "start": pa.float32(), "end": pa.float32(), "cond": pa.string(), "cond_id": pa.int32(),
}  # fmt: skip
RUN_COLUMNS = {
    "sub": pa.string(), "ses": pa.string(), "site": pa.string(), "n_frames": pa.int32(),
    "dx": pa.int64(), "age": pa.float32(),
}  # fmt: skip


def arrays(seed, n_frames):
    """bold, mean and std of a row, 40 columns."""
    rng = np.random.default_rng(seed)
    return {
        "bold": rng.normal(size=(n_frames, 40)).astype(np.float16),
        "mean": rng.normal(size=(1, 40)).astype(np.float32),
        "std": rng.uniform(1, 2, (1, 40)).astype(np.float32),
    }


def clips(subject, n=4):
    """Clips of one run, as Task21 has them."""
    return [
        {"sub": f"{subject:03d}", "mod": "tfMRI", "task": "MOTOR", "path": "p", "tr": 1.0,
         "start": 10.0 * i, "end": 10.0 * i + 16, "cond": "lf" if i % 2 else "rh",
         "cond_id": 4 if i % 2 else 7, **arrays(100 * subject + i, 16)}
        for i in range(n)
    ]  # fmt: skip


def runs(subjects, tr=2.0):
    """Whole runs, one a subject."""
    return [
        {"sub": f"{i:03d}", "ses": "1", "site": "a", "n_frames": 30, "dx": i % 2, "tr": tr,
         "age": 20.1 + i, **arrays(i, 30)}
        for i in subjects
    ]  # fmt: skip


def matrix_type(dtype):
    return pa.list_(pa.list_(pa.from_numpy_dtype(dtype)))


def schema(columns, metadata=None):
    """Of `columns`, {name: type}, and what every row has."""
    arrays = {
        "tr": pa.float32(),
        "bold": matrix_type(np.float16),
        "mean": matrix_type(np.float32),
        "std": matrix_type(np.float32),
    }
    return pa.schema({**columns, **arrays}, metadata)


def matrices(rows, name, dtype):
    """A column of (T, C) arrays as lists of lists, None where a row has none."""
    arrays = [None if row.get(name) is None else np.asarray(row[name], dtype) for row in rows]
    known = [array for array in arrays if array is not None]
    flat = np.concatenate([array.reshape(-1) for array in known] or [np.zeros(0, dtype)])
    widths = [array.shape[1] for array in known for _ in array]
    inner = pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *widths]), pa.int32()), pa.array(flat, pa.from_numpy_dtype(dtype))
    )
    ends = np.cumsum([0, *(0 if array is None else len(array) for array in arrays)])
    offsets = [
        None if array is None else int(end) for array, end in zip(arrays, ends, strict=False)
    ]
    return pa.ListArray.from_arrays(pa.array([*offsets, int(ends[-1])], pa.int32()), inner)


def write_arrow(path, rows, columns, metadata=None, batch=3, file_format=False):
    """Writes rows {column: value} as one Arrow file, in batches."""
    form = schema(columns, metadata)
    new = pa.ipc.new_file if file_format else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, form) as writer:
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            data = [
                matrices(some, name, np.float16 if name == "bold" else np.float32)
                if name in ("bold", "mean", "std")
                else pa.array([row.get(name) for row in some], form.field(name).type)
                for name in form.names
            ]
            writer.write_batch(pa.record_batch(data, schema=form))
    return path


def write_arrow_folder(folder, splits, columns, metadata=None, n_files=2):
    """Writes {split: rows} as the library datasets saves them.

    Args:
      columns: {name: Arrow type} of the plain values but tr.
    """
    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for split, rows in splits.items():
        (folder / split).mkdir()
        names = []
        for i in range(n_files):
            names.append(f"data-{i:05d}-of-{n_files:05d}.arrow")
            part = rows[len(rows) * i // n_files : len(rows) * (i + 1) // n_files]
            write_arrow(folder / split / names[-1], part, columns, metadata)
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
    return folder
