"""Every run says what it was: its command, source, stores and sizes, at each start."""

import json
import multiprocessing
import subprocess
import sys
import types

import jax
import pytest

from data_tools.errors import InputError
from fmrifm.embed import embeddings as embedding_table
from fmrifm.input.data import open_data
from fmrifm.model.files import ModelFiles
from fmrifm.model.options import ModelOptions
from fmrifm.probe import suite
from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.runs import provenance
from fmrifm.runs.config import config_dict
from fmrifm.runs.provenance import measure, read_starts, record_start, source_state
from fmrifm.trainer import loop
from fmrifm.trainer.loop import train
from tests.conftest import make_toy_config, toy_geometry, write_toy_store
from tests.probe.test_suite import probe_config, write_task_store

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The directory of a repository that stands for ours, with one file."""
    root = tmp_path / "source"
    root.mkdir()
    (root / "model.py").write_text("WIDTH = 1\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "_SOURCE", root)
    # As in a hook of another repository, with settings that make diffs which nothing reads.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    with open(root / ".git" / "config", "a") as file:
        file.write("[diff]\n\tnoprefix = true\n[color]\n\tui = always\n")
    source_state.cache_clear()
    yield root
    source_state.cache_clear()


@pytest.fixture
def no_steps(monkeypatch):
    """Runs end before their first step, and save what they would begin with."""

    def end(run, state, first_step, stop):
        if run.checkpoints.latest_step is None:
            run.save(state, first_step, evaluated=True)
        return state, True

    monkeypatch.setattr(loop._Run, "loop", end)


def test_each_start_of_a_run(stores, no_steps, tmp_path):
    config, workdir = make_toy_config(stores), tmp_path / "run"
    assert train(config, workdir) == STOPPED_EXIT_CODE
    (first,) = read_starts(workdir)
    data, written = open_data(config), json.loads((workdir / "config.json").read_text())
    assert first["config"] == config_dict(config) == written
    assert first["stores"] == data.digests() and len(first["stores"]) == 2
    assert first["sizes"] == measure(config, data)
    assert first["packages"]["jax"] == jax.__version__ and first["command"] is None  # of pytest
    assert first["devices"]["platform"] == "cpu" and first["devices"]["processes"] == 1

    # What is refused is no start, what is not is one more.
    before = (workdir / "provenance.json").read_bytes()
    with pytest.raises(InputError, match="another config"):
        train(make_toy_config(stores, optim__b1=0.8), workdir)
    with pytest.raises(InputError, match="no store"):
        train(make_toy_config(stores, data__train=str(tmp_path)), tmp_path / "none")
    assert (workdir / "provenance.json").read_bytes() == before
    assert not (tmp_path / "none").exists()
    assert train(make_toy_config(stores, log_every=3), workdir) == STOPPED_EXIT_CODE
    starts = read_starts(workdir)
    assert [start["config"]["log_every"] for start in starts] == [2, 3] and starts[0] == first


def test_sizes_count_a_run_once(stores, tmp_path):
    """Whatever number of sources name it, by whatever path."""
    (tmp_path / "link").symlink_to(stores["train"])
    once = measure(config := make_toy_config(stores), open_data(config))
    assert once["train"] == {"frames": 300, "runs": 5, "subjects": 5, "datasets": ["toy"]}
    config.data.train = f"{stores['train']}@0.5,{tmp_path / 'link'}?subject=0[01]@0.5"
    assert measure(config, open_data(config)) == once
    config.data.train = f"{stores['train']}?subject=0[01],{stores['train']}?subject=0[12]"
    assert measure(config, open_data(config))["train"]["frames"] == 180
    # Runs of the same name in another store are other runs, of the same people.
    config.data.train = f"{stores['train']},{stores['other']}"
    assert measure(config, open_data(config))["train"] == {
        "frames": 480, "runs": 8, "subjects": 5, "datasets": ["toy"]
    }  # fmt: skip
    assert once["encoder_params"] < once["params"] and once["eval"] == {"held": ["toy"]}


def test_the_source_and_its_changes(source, tmp_path):
    def start(run="run"):
        record_start(tmp_path / run, {}, {})
        return read_starts(tmp_path / run)[-1]["git"]

    clean = start()
    assert not clean["dirty"] and clean["diff"] is None and len(clean["commit"]) == 40
    (source / "new.py").write_text("untracked")
    (source / "model.py").write_text("WIDTH = 2\n")
    assert start() == clean  # this process has imported what there was
    source_state.cache_clear()
    assert start()["diff"] == start()["diff"] == "uncommitted.diff"
    (source / "model.py").write_text("WIDTH = 3\n")
    source_state.cache_clear()
    assert start()["diff"] == "uncommitted_5.diff"  # the other one is of earlier starts
    subprocess.run(["git", "checkout", "-q", "model.py"], cwd=source, check=True, env={})
    diff = tmp_path / "run" / "uncommitted.diff"
    subprocess.run(["git", "apply", str(diff)], cwd=source, check=True, env={})
    assert (source / "model.py").read_text() == "WIDTH = 2\n"

    (source / "model.py").write_text("#" * (11 * 2**20))
    source_state.cache_clear()
    large = start("other")
    assert large["dirty"] and large["diff"] is None and large["diff_bytes"] > 11 * 2**20
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["provenance.json"]


def test_an_installed_package_asks_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_SOURCE", tmp_path)
    monkeypatch.setattr(provenance, "_ask_git", lambda *_: pytest.fail("asks git"))
    source_state.cache_clear()
    record_start(tmp_path / "run", {}, {})
    source_state.cache_clear()
    assert read_starts(tmp_path / "run")[0]["git"] is None


def test_a_damaged_file_is_kept_beside_the_new_one(tmp_path):
    record_start(tmp_path, {}, {})
    damaged = (tmp_path / "provenance.json").read_bytes()[:-9]
    (tmp_path / "provenance.json").write_bytes(damaged)
    record_start(tmp_path, {}, {})
    assert len(read_starts(tmp_path)) == 1
    assert (tmp_path / "provenance.json.damaged").read_bytes() == damaged


def test_the_command(monkeypatch):
    assert provenance._command() is None
    # What a fresh process of ours, `python -m`, and its children have.
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="fmrifm.pretrain")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["/x/pretrain.py", "--config.data.train=a b"])
    assert provenance._command() == ["-m", "fmrifm.pretrain", "--config.data.train=a b"]
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert provenance._command() is None


def test_probes_and_embeddings(tmp_path, monkeypatch):
    """Nothing is encoded here; what was checked and opened is enough."""
    options = ModelOptions(
        grid=toy_geometry().grid, patch_shape=(8, 8), num_frames=16, t_patch=8, embed_dim=32,
        depth=1, num_heads=1,
    )  # fmt: skip
    files = ModelFiles(options, {}, toy_geometry(), {"normalize": "none"}, [])
    monkeypatch.setattr(suite, "find_entries", lambda *_: ())
    monkeypatch.setattr(embedding_table, "open_model", lambda _: files)
    monkeypatch.setattr(embedding_table, "embed_runs", lambda *_: types.SimpleNamespace(runs=[]))
    monkeypatch.setattr(embedding_table, "write_embeddings", lambda *_: None)
    groups = {"train": (1, 2, 3), "val": (4, 5), "test": (6, 7)}
    splits = {n: write_task_store(tmp_path / n, s, 1.0) for n, s in groups.items()}
    config = probe_config("model", splits)
    with pytest.raises(InputError, match="colour"):
        other = probe_config("model", splits, target="event:colour")
        suite.probe(other, tmp_path / "probe", files)
    assert not (tmp_path / "probe").exists()
    for _ in range(2):
        results = suite.probe(config, tmp_path / "probe", files)
    starts = read_starts(tmp_path / "probe")
    assert len(starts) == 2 and set(starts[0]["stores"]) == set(splits.values())
    told = {name: value for name, value in starts[0]["config"].items() if name != "cache_dir"}
    assert told == results["config"]
    # Amid a training whose own file tells all, and in a process that does not write.
    suite.probe(config, tmp_path / "amid", files, records=False)
    monkeypatch.setattr(suite.jax, "process_index", lambda: 1)
    suite.probe(config, tmp_path / "other", files)
    assert not {"amid", "other"} & {x.parent.name for x in tmp_path.glob("*/provenance.json")}

    store = write_toy_store(tmp_path / "store", seed=1)
    embedding_table.make_table("model", [str(store)], tmp_path / "table", windows=2)
    (start,) = read_starts(tmp_path / "table")
    assert list(start["stores"]) == [str(store)] and start["config"]["windows"] == 2
