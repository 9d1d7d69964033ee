"""A run is repeated by the command that is printed, and what has changed since is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fmrifm.sweep.reproduce
from data_tools.errors import InputError
from data_tools.store.reader import Store
from fmrifm.input.data import store_digest
from fmrifm.runs import provenance
from fmrifm.runs.config import config_dict
from fmrifm.runs.finished import read_runs
from fmrifm.runs.provenance import read_starts
from fmrifm.sweep.reproduce import reproduce
from tests.conftest import FAST_COMPILE, ROOT, load_config, write_toy_store
from tests.trainer.commands import metrics

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of absl


def command(text: str) -> list[str]:
    """What is left of a script without its comments."""
    return [line for line in text.splitlines() if not line.startswith("# ")]


def test_the_command_gives_the_same_numbers(tmp_path, monkeypatch):
    """In a shell that stands elsewhere, of a run with paths that need quotes."""
    for seed, name in enumerate(("train", "eval")):
        write_toy_store(tmp_path / "my stores" / name, seed)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FAST_COMPILE,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    run = tmp_path / "my runs" / "a"
    arguments = [
        *("-m", "fmrifm.pretrain", "--config=configs/pretrain.py:d3,runlocal"),
        *("--workdir", os.path.relpath(run, ROOT), "--config.total_steps=3", "--config.seed=7"),
        *("--config.log_every=1", "--config.figures=0", "--config.model.patch=8"),
        "--config.eval_linear=False",
        *("--config.model.embed_dim=32", "--config.model.depth=1", "--config.model.num_heads=2"),
        *("--config.model.decoder_depth=1", "--config.model.decoder_embed_dim=32"),
        f"--config.data.train={tmp_path}/my stores/train?subject=0*",
        f"--config.data.eval=held={tmp_path}/my stores/eval",
    ]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (start,) = read_starts(run)
    assert start["command"] == arguments and start["directory"] == str(ROOT)

    monkeypatch.chdir(tmp_path)
    text = reproduce(Path("my runs/a"))
    for words in ("same versions as now", "same contents as then: 2 of 2", "config of the command"):
        assert words in text
    done = subprocess.run(["sh"], input=text, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    repeated = tmp_path / "my runs" / "a_repeated"
    assert metrics(repeated) == metrics(run) and len(metrics(run)) == 4
    a, b = read_runs([str(tmp_path / "my runs" / "*")])
    assert a.losses() == b.losses() and a.sizes() == b.sizes() and a.config == b.config
    assert "is there already" in reproduce(run)


@pytest.fixture
def write_start(tmp_path, monkeypatch):
    """Adds a start to tmp_path/run, with a config file of its own; returns the run's path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from configs.pretrain import get_config\n")
    clean = {"commit": "d" * 40, "dirty": False, "diff_bytes": 0}
    for module in (provenance, fmrifm.sweep.reproduce):
        monkeypatch.setattr(module, "source_state", lambda: (clean, b""))
    path = tmp_path / "run"

    def write(*flags, module="fmrifm.pretrain", config=None, stores=(), **changes):
        path.mkdir(exist_ok=True)
        starts = read_starts(path)
        line = ["-m", module, "--config=mine.py:d3", *flags]
        monkeypatch.setattr(provenance, "_command", lambda: line)
        provenance.record_start(path, config or config_dict(load_config(arg="d3")), dict(stores))
        entry = read_starts(path)[-1] | changes
        text = json.dumps({"version": 1, "starts": [*starts, entry]})
        (path / provenance.FILE).write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--workdir=run", "--profile=1:2"], ["--workdir={}", "--profile=1:2"]),
        (["-workdir", "run", "--config.seed=0"], ["--workdir={}", "--config.seed=0"]),
        (["--config.seed", "0", "--workdir", "run"], ["--config.seed", "0", "--workdir={}"]),
        (["--workdir=a", "-workdir=run"], ["--workdir={}"]),
        (["--flagfile=flags.txt"], ["--flagfile=flags.txt", "--workdir={}"]),
    ],
)
def test_the_workdir_is_another_one(write_start, flags, expected):
    run = write_start(*flags)
    words = [word.format(f"{run}_repeated") for word in expected]
    assert command(reproduce(Path("run/"))) == [
        " ".join(["python -m fmrifm.pretrain --config=mine.py:d3", *words])
    ]


def test_the_config_is_that_of_the_run(write_start):
    then = config_dict(load_config(arg="d3"))
    then |= {"seed": 5, "gone": 1, "keep_best": "a"}
    then["data"]["skip_short_runs"] = True
    then["probe"]["representations"] = ["cls", "patch"]
    then["probe"].pop("every")
    then["optim"]["lr"] = None
    run = write_start(
        "--workdir=run", "--config.seed=4", "--noconfig.data.skip_short_runs", "--config.optim.lr",
        "0.1", "--config.probe.representations=cls", "--config.probe.representations=reg",
        config=then,
    )  # fmt: skip
    text = reproduce(run)
    (line,) = command(text)
    assert "--config.seed=5" in line and "--config.seed=4" not in line
    assert "--config.data.skip_short_runs=true" in line and "--noconfig" not in line
    assert line.count("representations") == 1 and "cls" in line and "reg" not in line
    assert "--config.keep_best=a" in line and "--config.optim.lr 0.1" in line
    for words in (
        "# seed was 5, and the command alone makes it 4: set here to what it was.",
        "# optim.lr was None, and the command alone makes it 0.1: no flag can say what it was.",
        "# The config has no gone any more, which was 1.",
        "# The config has a new field probe.every, which is 0.",
    ):
        assert words in text.splitlines()
    (run.parent / "mine.py").unlink()
    assert "# The config cannot be read now: " in reproduce(run)


def test_what_has_changed_is_said(write_start, tmp_path, monkeypatch):
    intact, changed = (write_toy_store(tmp_path / name, seed=1) for name in ("intact", "changed"))
    gone = str(tmp_path / "gone\nrm -rf x")  # no line of a comment becomes a command
    stores = {str(intact): store_digest(Store(intact)), str(changed): "0" * 16, gone: "1" * 16}
    git = {"commit": "c" * 40, "dirty": True, "diff": "uncommitted.diff", "diff_bytes": 9}
    packages = {**provenance.package_versions(), "jax": "0.0.1", "torch": "2"}
    devices = {"kind": "TPU v5e", "platform": "tpu", "count": 32, "processes": 4}
    run = write_start(
        "--workdir=run", stores=stores, git=git, packages=packages, devices=devices,
        directory="/no where",
    )  # fmt: skip
    other = config_dict(load_config(arg="d3")) | {"seed": 9}
    write_start("--workdir=run", config=other)
    text = reproduce(run)
    assert command(text)[0] == "cd '/no where' &&" and len(command(text)) == 2
    for words in (
        "on 32 x TPU v5e (tpu)",
        "the first of 4 processes",
        "the first of 2 starts",
        "Changes between them: seed, the commit.",
        f"git checkout {git['commit']}",
        f"git apply {run}/uncommitted.diff",
        f"jax 0.0.1 (now {packages['jaxlib']})",
        "torch 2 (now absent)",
        f"The store {changed} has other contents now.",
        "cannot be opened now",
        "same contents as then: 1 of 3",
    ):
        assert words in text
    monkeypatch.setattr(fmrifm.sweep.reproduce, "source_state", lambda: (git, b"x"))
    text = reproduce(run)
    assert "git checkout" not in text and "git apply" in text
    (run / "uncommitted.diff").write_bytes(b"x")
    assert "git apply" not in reproduce(run)  # the files are as they were


def test_a_probe_of_a_checkpoint_is_that_of_the_same_one(write_start, tmp_path):
    (tmp_path / "mine.py").write_text("from configs.probe import get_config\n")
    config = config_dict(load_config("probe"))
    used = config | {"run": "every", "model": "run/checkpoints/40", "cache_dir": "features"}
    run = write_start("--workdir=run", "--config.model=run", "--config.run=every", config=used)
    starts = json.loads((run / provenance.FILE).read_text())
    starts["starts"][0]["command"][1:3] = ["fmrifm.probe", "--config=mine.py"]
    (run / provenance.FILE).write_text(json.dumps(starts))
    assert command(reproduce(run)) == [
        f"python -m fmrifm.probe --config=mine.py --workdir={run}_repeated "
        "--config.model=run/checkpoints/40 --config.run=last"
    ]


def test_embeddings_have_another_flag(write_start):
    run = write_start("--model=m", "--input=a,b", "--output=run", module="fmrifm.embed")
    assert command(reproduce(run))[0].endswith(f"--model=m --input=a,b --output={run}_repeated")


def test_what_no_command_has_made(tmp_path):
    with pytest.raises(InputError, match="has no provenance.json"):
        reproduce(tmp_path)
    provenance.record_start(tmp_path, {}, {})
    with pytest.raises(InputError, match=f"from Python.*{tmp_path}/provenance.json"):
        reproduce(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"from Python.*{tmp_path}/config.json"):
        reproduce(tmp_path)
