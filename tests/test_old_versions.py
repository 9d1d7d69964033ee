"""What version 0.1.0 wrote is read forever: a store, a run, a model directory and a probe.

The files in version_0_1 were made by that version from the toy data of conftest.py. The run was
killed after the checkpoint of step 4 of 6; the numbers below are those it had without the kill.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fmrifm
from data_tools.store.reader import Store
from fmrifm.probe.results.compare_rows import read_predictions, read_rows
from fmrifm.runs.finished import read_runs
from fmrifm.runs.provenance import read_starts
from fmrifm.sweep.arguments import read_config
from fmrifm.trainer.loop import train
from tests.conftest import ROOT

OLD = ROOT / "tests" / "version_0_1"


def test_a_store_is_read():
    store = Store(OLD / "store")
    assert [intact for _, intact in store.verify()] == [True] * 5
    assert store.geometry.n_patches == 32 and store.runs[4]["task"] == "REST2"


def test_a_killed_run_continues_to_the_same_numbers(tmp_path, monkeypatch, one_device):
    for name in ("store", "run"):
        shutil.copytree(OLD / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    command = read_starts(Path("run"))[0]["command"]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert train(read_config(command), "run") == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 4, 4, 6, 6]
    assert lines[4]["train/loss"] == pytest.approx(1.062843918800354, rel=1e-5)
    assert lines[4]["train/grad_norm"] == pytest.approx(0.04304133728146553, rel=1e-4)
    assert lines[5]["eval/held/loss"] == pytest.approx(0.943935751914978, rel=1e-5)
    (run,) = read_runs(["run"])
    assert run.config["model.embed_dim"] == 16 and run.step == 6


def test_a_model_directory_gives_the_same_embeddings():
    model = fmrifm.from_pretrained(OLD / "model")
    t = np.linspace(0, 1, 16, dtype=np.float32)[:, None, None]
    y = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    x = np.linspace(-2, 2, 64, dtype=np.float32)
    cls, _, patch = model.encode(np.sin(3 * t + 2 * x * y)[None, None])
    expected = [-0.12201248, -0.8811288, 1.5266864, -0.12215208]
    np.testing.assert_allclose(cls[0, 0, :4], expected, rtol=1e-4)
    np.testing.assert_allclose(patch[0, -1, :3], [0.34335333, -0.37719432, 0.8345882], rtol=1e-4)


def test_a_probe_is_compared():
    (row,) = [row for row in read_rows(OLD / "probe") if row.section.split == "test"]
    assert (row.representation, row.head, row.step, row.n) == ("avg_patch", "knn", 6, 2)
    predictions = read_predictions(OLD / "probe" / "predictions_avg_patch_knn.npz", "test")
    assert len(predictions["target"]) == row.n
