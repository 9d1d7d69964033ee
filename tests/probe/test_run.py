"""Checkpoints of a run are probed as they appear, each once, and become curves."""

import functools
import json
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.probe import get_config
from data_tools.errors import InputError
from fmrifm.probe import run as strategies
from fmrifm.probe.run import run_probes, training_probe
from fmrifm.trainer.loop import train
from tests.conftest import ROOT, make_toy_config
from tests.probe.test_suite import probe_config, write_task_store

pytestmark = pytest.mark.usefixtures("one_device")
STEPS = ["step-00000004", "step-00000008"]


@pytest.fixture(scope="module")
def finished(one_device, stores, tmp_path_factory):
    """The workdir of a run of eight steps with the checkpoints 4 and 8."""
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    config = make_toy_config(
        stores,
        total_steps=8,
        checkpoint_every=4,
        keep_checkpoints=2,
        data__eval="",
        eval_every=0,
        model__depth=1,
        model__embed_dim=32,
    )
    assert train(config, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("task")
    groups = {"train": (1, 2, 3), "val": (4, 5), "test": (6, 7)}
    return {name: write_task_store(root / name, some, 1.0) for name, some in groups.items()}


@pytest.fixture(scope="module")
def make_config(splits):
    """A quick probe of the checkpoints of a workdir."""

    def make(workdir, **changes):
        quick = {"representations": ("avg_patch",), "baselines": ("majority",), "run": "every"}
        return probe_config(workdir, splits, **quick | changes)

    return make


@pytest.fixture(scope="module")
def probed(make_config, finished, tmp_path_factory):
    """Where every checkpoint has been probed, of a run that has ended: nobody waits for more."""
    output = tmp_path_factory.mktemp("probed") / "every"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "time", SimpleNamespace(sleep=lambda _: pytest.fail("waits")))
        run_probes(make_config(finished, wait=600.0), output)
    return output


@pytest.fixture
def quick_poll(monkeypatch):
    monkeypatch.setattr(strategies, "_POLL", 0.05)


@pytest.mark.parametrize("error", [
    InputError("no sample"), OSError(28, "No space left", "/x"), ValueError("infs"), MemoryError(),
    SystemExit(3),
])  # fmt: skip
def test_no_probe_ends_a_training(error, monkeypatch, tmp_path, capsys):
    def probe(*_, **__):
        raise error

    monkeypatch.setattr(strategies, "probe", probe)
    monkeypatch.setattr(strategies, "open_probe", lambda *_: None)
    settings = ConfigDict({"task": "", "representations": ("cls",), "train": "", "val": "",
                           "test": ""})  # fmt: skip
    scores = training_probe(get_config, settings, tmp_path, None)
    assert scores(SimpleNamespace(step=4)) == {}
    assert "The model of step 4 was not probed: " in capsys.readouterr().out


def steps_of(output) -> list[str]:
    """The steps that are done."""
    return sorted(path.parent.name for path in output.glob("*/results.json"))


def read_results(directory) -> dict:
    return json.loads((directory / "results.json").read_text())


def read_scores(directory) -> np.ndarray:
    """What the model's head says of each class."""
    with np.load(directory / "predictions_avg_patch_logistic.npz") as file:
        return file["score"]


def unfinished(finished, path):
    """The run as it was when its first checkpoint had been written."""
    workdir = shutil.copytree(finished, path)
    shutil.rmtree(workdir / "checkpoints" / "8")
    return workdir


def test_last_is_the_newest_checkpoint(make_config, finished, probed, tmp_path, capsys):
    run_probes(make_config(finished, run="last"), tmp_path / "probe")
    newest = read_results(tmp_path / "probe")
    assert newest["step"] == 8 and newest["model"] == str(finished / "checkpoints" / "8")
    assert newest["results"] == read_results(probed / STEPS[1])["results"]
    earlier, later = (read_scores(probed / step) for step in STEPS)
    np.testing.assert_array_equal(read_scores(tmp_path / "probe"), later)
    assert np.abs(earlier - later).max() > 1e-4  # of other weights
    assert "avg_patch" in capsys.readouterr().out


def test_every_checkpoint_is_probed_once(make_config, finished, probed, tmp_path, monkeypatch):
    assert steps_of(probed) == STEPS
    for name, step in zip(STEPS, (4, 8), strict=True):
        results = read_results(probed / name)
        assert results["step"] == step
        assert results["model"] == str(finished / "checkpoints" / str(step))
    output = shutil.copytree(probed, tmp_path / "every")
    (output / STEPS[1] / "results.json").unlink()  # of a job that was killed
    probe, made = strategies.probe, []
    monkeypatch.setattr(
        strategies, "probe", lambda c, where, f: made.append(where.name) or probe(c, where, f)
    )
    for _ in range(2):
        run_probes(make_config(finished), output)
        assert made == STEPS[1:]
    again, before = (read_results(x / STEPS[1]) for x in (output, probed))
    again["config"]["wait"] = before["config"]["wait"]
    assert again == before


@pytest.mark.usefixtures("quick_poll")
def test_a_checkpoint_that_appears_while_waiting_is_probed(
    make_config, finished, probed, tmp_path, monkeypatch
):
    workdir, output = unfinished(finished, tmp_path / "run"), tmp_path / "every"
    run_probes(make_config(workdir), output)
    assert steps_of(output) == STEPS[:1]  # the run has not ended, but nobody is to wait
    waits = threading.Event()
    monkeypatch.setattr(
        strategies, "time", SimpleNamespace(sleep=lambda s: waits.set() or time.sleep(s))
    )

    def appear():
        half = shutil.copytree(finished / "checkpoints" / "8", tmp_path / "half")
        if waits.wait(60):
            half.rename(workdir / "checkpoints" / "8")

    thread = threading.Thread(target=appear)
    thread.start()
    run_probes(make_config(workdir, wait=30.0), output)  # and ends with the run, not with the wait
    thread.join()
    assert waits.is_set() and steps_of(output) == STEPS
    newest = read_results(probed / STEPS[1])["results"]
    assert read_results(output / STEPS[1])["results"] == newest


@pytest.mark.usefixtures("quick_poll")
def test_waiting_has_an_end(make_config, finished, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(strategies, "time", SimpleNamespace(sleep=slept.append))
    run_probes(make_config(unfinished(finished, tmp_path / "run"), wait=0.12), tmp_path / "every")
    assert slept == pytest.approx([0.05, 0.05, 0.02])


@pytest.mark.usefixtures("quick_poll")
@pytest.mark.parametrize("run", ["last", "every"])
def test_a_workdir_without_checkpoints_is_told(make_config, tmp_path, run):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="run holds no checkpoint: check the path"):
        run_probes(make_config(tmp_path / "run", run=run, wait=0.1), tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_a_probe_in_training_is_checked_before_it_and_never_ends_it(
    stores, splits, tmp_path, capsys, monkeypatch
):
    def run(**changes):
        config = make_toy_config(stores, total_steps=4, data__eval="", eval_every=4, **changes)
        make_probe = functools.partial(training_probe, get_config)
        return train(config, tmp_path / "run", make_probe=make_probe)

    probes = {"probe__every": 4, **{f"probe__{name}": path for name, path in splits.items()}}
    for changes, told in (
        ({"probe__task": "sex"}, "has a field 'sex'"),
        ({"probe__val": splits["train"]}, "train and val share"),
        ({"probe__representations": ("reg",)}, "has no registers"),
        ({"probe__every": 3}, "no multiple of eval_every"),
    ):
        with pytest.raises(InputError, match=told):
            run(**probes | changes)
        assert not (tmp_path / "run").exists()

    def fails(*_, **__):
        raise InputError("There is no room: make some.")

    monkeypatch.setattr(strategies, "probe", fails)
    assert run(**probes) == 0
    assert "step 4 was not probed: There is no room: make some." in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_what_is_there_is_merged_on_the_command_line(make_config, finished, probed, tmp_path):
    every = shutil.copytree(probed, tmp_path / "every")
    run_probes(make_config(finished, run="last"), tmp_path / "last")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fmrifm.probe", f"--workdir={tmp_path / 'merged'}"),
            f"--compare={every},{tmp_path / 'last'}",
        ],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    merged = {path.name: path.read_bytes() for path in (tmp_path / "merged").iterdir()}
    assert set(merged) == {"table.md", "table.csv", "table.png", "steps.png"}
    assert all(merged[name][1:4] == b"PNG" for name in ("table.png", "steps.png"))
    table = merged["table.md"].decode()
    assert table in done.stdout and "over subjects where results have them" in table
    for words in ("(every) step 4 |", "(every) step 8 |", "(last) step 8 |", "| all | none |"):
        assert words in table
    header, *lines = merged["table.csv"].decode().splitlines()
    probes = [*(every / name for name in STEPS), tmp_path / "last"]
    csvs = [(probe / "results.csv").read_text().splitlines() for probe in probes]
    assert len(lines) == sum(len(text) - 1 for text in csvs)
    for text in (header, csvs[0][0]):
        assert text.endswith("high,subject_std,subject_low,subject_high")
    accuracy = next(line.split(",") for line in csvs[0] if "avg_patch" in line)
    told = read_results(probes[0])["results"][0]["splits"]["test"]["metrics"]["accuracy"]
    assert [float(x) for x in accuracy[-3:]] == [
        told[f"subject_{x}"] for x in ("std", "low", "high")
    ]
