"""Task21 end to end, as a user types it: published folders and weights -> stores -> a table."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from data_tools import import_arrow
from data_tools.spaces.geometry import Geometry
from tests.conftest import ROOT
from tests.probe.test_suite import write_model, write_task_store
from tests.published.models import CHECKPOINT

pa = pytest.importorskip("pyarrow")
from tests.data_tools.published.arrow_folders import write_arrow_folder  # noqa: E402

CONDITIONS = ("fear", "lf", "2bk_tools")
COLUMNS = {
    **{name: pa.string() for name in ("sub", "mod", "task", "mag", "dir", "path", "cond")},
    **{"start": pa.float32(), "end": pa.float32(), "cond_id": pa.int32()},
}
MASK = np.zeros((16, 32), bool)
MASK[2:15, 3:30] = True
SPLITS = {"train": range(8), "validation": range(8, 11), "test": range(11, 16)}


def clips(subject, n_columns, strength):
    """Clips of a subject in which a condition is a pattern of the columns."""
    rng = np.random.default_rng(1000 * n_columns + subject)
    patterns = np.random.default_rng(n_columns).normal(size=(len(CONDITIONS), n_columns))
    for i in range(12):
        kind = i % len(CONDITIONS)
        bold = rng.normal(size=(16, n_columns)) + strength * patterns[kind]
        yield {
            "sub": f"{100 + subject}", "mod": "tfMRI", "task": "WM", "mag": "3T", "dir": "LR",
            "path": "p", "tr": 1.0, "start": 20.0 * i, "end": 20.0 * i + 16,
            "cond": CONDITIONS[kind], "cond_id": kind, "bold": bold.astype(np.float16),
            "mean": np.ones((1, n_columns)), "std": np.ones((1, n_columns)),
        }  # fmt: skip


def import_folder(tmp_path, name, geometry, strength):
    splits = {
        split: [row for subject in subjects for row in clips(subject, geometry.n_pixels, strength)]
        for split, subjects in SPLITS.items()
    }
    folder = write_arrow_folder(tmp_path / f"hcpya-task21.{name}.arrow", splits, COLUMNS)
    (tmp_path / f"{name}.npz").write_bytes(geometry.to_bytes())
    output = tmp_path / f"stores_{name}"
    import_arrow.main(
        [f"--input={folder}", f"--output={output}", f"--geometry={tmp_path / name}.npz", "--jobs=1"]
    )
    return output


def probe(*arguments, task="task21"):
    command = [sys.executable, "-m", "fmrifm.probe", f"--config={ROOT / 'configs/probe.py'}:{task}"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT
    )


def test_task21_beside_the_connectome(tmp_path):
    flat = import_folder(tmp_path, "flat", Geometry("flat", MASK, (4, 4), pixel_size=1.2), 1.0)
    parcels = Geometry("schaefer10", np.ones((10, 1), bool), (1, 1))
    parcels = import_folder(tmp_path, "schaefer10", parcels, 0.0)
    workdir = tmp_path / "probe"
    done = probe(
        f"--workdir={workdir}", f"--config.model={CHECKPOINT}", f"--config.data.folder={flat}",
        f"--config.data.parcels={parcels}",
        "--config.representations=('patch', 'avg_patch')",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stdout and "connectome_schaefer10" in done.stdout
    results = json.loads((workdir / "results.json").read_text())
    assert results["classes"] == [*CONDITIONS] and results["target"].endswith("task21")
    found = {
        row["representation"]: row["splits"]["test"]["metrics"]["accuracy"]
        for row in results["results"]
    }
    assert found["patch"]["low"] > 0.8 and found["none"]["value"] == pytest.approx(1 / 3)
    # These parcels are noise: the connectome is of them, and not of the flat maps.
    assert found["connectome_schaefer10"]["low"] < 1 / 3 < found["connectome_schaefer10"]["high"]
    (row,) = [row for row in results["results"] if row["representation"] == "patch"]
    assert row["splits"]["test"]["n"] == 60 and row["splits"]["test"]["n_subjects"] == 5
    assert row["splits"]["test"]["seen_in_pretraining"] is None  # published weights do not tell
    names = {path.name for path in workdir.iterdir()}
    assert {"results.json", "results.csv", "predictions_patch_logistic.npz"} <= names


def test_one_sentence_where_something_is_missing(tmp_path):
    done = probe(f"--workdir={tmp_path / 'probe'}", f"--config.data.folder={tmp_path / 'none'}",
                 f"--config.model={CHECKPOINT}")  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "probe").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "import a dataset there" in line
    done = probe(f"--workdir={tmp_path / 'probe'}", task="task22")
    assert done.returncode == 2
    assert "choose one of simulated, task21" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_share_the_encoding(tmp_path):
    model = write_model(tmp_path / "model")
    subjects = {"train": (1, 2, 3), "val": (4,), "test": (5, 6)}
    stores = [
        f"--config.data.{name}={write_task_store(tmp_path / name, some, 0.5)}"
        for name, some in subjects.items()
    ]
    common = [
        *(sys.executable, "-m", "fmrifm.probe", f"--config={ROOT / 'configs/probe.py'}", *stores),
        *(f"--config.model={model}", '--config.baselines=("connectome",)'),
    ]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, n in (("one", 1), ("two", 2)):
        together = [f"--coordinator=localhost:{port}", f"--num_processes={n}"]
        started = [
            subprocess.Popen(
                [
                    *(*common, f"--workdir={tmp_path / name}"),
                    *([*together, f"--process_id={i}"] if n > 1 else []),
                ],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            )
            for i in range(n)
        ]  # fmt: skip
        told = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [0] * n, told
        assert ["Done." in text for text in told] == [True, False][:n]
    one, two = (json.loads((tmp_path / x / "results.json").read_text()) for x in ("one", "two"))
    assert len(one["results"]) == 4 and one == two
    features = [sorted((tmp_path / x / "features").glob("*/patch.npy")) for x in ("one", "two")]
    for a, b in zip(*features, strict=True):
        np.testing.assert_allclose(np.load(a), np.load(b), atol=4e-3)
