"""The command: bad input gives one sentence, a code that is not zero, and nothing half-written."""

import contextlib
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from data_tools.spaces.geometry import Geometry
from fmrifm import command_line, pretrain
from fmrifm.command_line import WRONG_USAGE
from fmrifm.runs import provenance
from fmrifm.runs.metrics_writer import MetricsWriter
from fmrifm.trainer.evaluate import Evaluator
from tests.conftest import ROOT, write_toy_store
from tests.trainer.commands import arguments, metrics

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of absl


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code and its errors."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    known = set(flags.FLAGS)

    def run(*argv):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["pretrain", *map(str, argv)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
            command_line.run(pretrain.main, "config", "workdir")
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        return stop.value.code, capsys.readouterr().err

    return run


def assert_one_sentence(result, *words, expected=1):
    code, error = result
    assert code == expected and error.startswith("error: ") and error.count("\n") == 1, error
    for word in words:
        assert word in error


def test_bad_stores(call, toy_config, stores, tmp_path):
    workdir = tmp_path / "deep" / "run"
    damaged = shutil.copytree(stores["train"], tmp_path / "damaged")
    (damaged / "store.json").write_text('{"format": "fmrifm-sto')
    cut = shutil.copytree(stores["train"], tmp_path / "cut")
    shard = cut / "shards" / "bold-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1000])
    short = write_toy_store(tmp_path / "short", seed=0, subjects=2, frames=20)
    wide = Geometry("wide", np.ones((32, 96), bool), (8, 8))
    other_grid = write_toy_store(tmp_path / "wide", seed=0, subjects=1, geometry=wide)
    for overrides, words in (
        ({"data__train": str(tmp_path / "none")}, ["no store at", "none"]),
        ({"data__train": ""}, ["data.train"]),
        ({"data__train": str(damaged)}, ["store.json does not match its checksum"]),
        ({"data__train": str(cut)}, ["bold-00000.npy"]),
        ({"data__train": str(short), "data__num_frames": 24}, ["20 frames", "skip_short_runs"]),
        ({"data__train": f"{stores['train']}?task=MOVIE*"}, ["matches", "MOVIE"]),
        ({"data__eval": f"held={other_grid}"}, ["'held'", "32 x 96"]),
        ({"data__eval": str(stores["eval"])}, ["needs a name"]),
        ({"batch_size": 12}, ["batch_size=12", "multiple of 8"]),
        ({"keep_best": "nobody"}, ["keep_best"]),
        ({"wandb_project": "brains"}, ["pip install"]),
        ({"init_from": str(tmp_path)}, ["init_from", "is no model"]),
    ):
        config = toy_config(**({"mesh__data": -1} | overrides))
        assert_one_sentence(call(*arguments(config, workdir)), *words)
        assert not workdir.parent.exists()


def test_bad_flags(call, toy_config, tmp_path):
    good = arguments(toy_config(), tmp_path / "run")
    for extra, words in (
        (["--config.optm.lr=1"], ["'optm'", "'optim'"]),
        (["--config.optim.lrr=1"], ["'lrr'", "'lr'"]),
        (["--config.zzz=1"], ["'zzz'"]),
        (["--config.optim.lr=fast"], ["config.optim.lr", "fast"]),
        (["--config=configs/nothing.py"], ["configs/nothing.py"]),
        (["--workdri=x"], ["workdri"]),
        (["now"], ["now"]),
        (["--profile=3"], ["--profile=3", "START:COUNT"]),
        (["--profile=0:2"], ["--profile=0:2", "from 1 on"]),
        (["--profile=5:3"], ["--profile=5:3", "step 7", "step 6"]),
    ):
        readable = extra[0].startswith("--profile")  # as a flag, but its value makes no sense
        assert_one_sentence(call(*good, *extra), *words, expected=1 if readable else WRONG_USAGE)
    for given, words in (
        (good[:1], "workdir"),
        (good[1:2], "--config"),
        (["--config=configs/nothing.py", good[1]], "configs/nothing.py"),
    ):
        assert_one_sentence(call(*given), words, expected=WRONG_USAGE)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_way(call, toy_config, tmp_path):
    (tmp_path / "file").write_text("precious")
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        assert_one_sentence(call(*arguments(toy_config(), workdir)), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


@contextlib.contextmanager
def largest_file(size: int):
    """Stands in for a full disk: writing beyond raises OSError."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size, where", [(1_000, "config.json"), (30_000, "checkpoints")])
def test_full_disk(call, toy_config, one_device, tmp_path, monkeypatch, size, where):
    monkeypatch.setattr(Evaluator, "__call__", lambda *_: {})
    monkeypatch.setattr(provenance, "source_state", lambda: (None, b""))  # its diff may be long
    config = toy_config(total_steps=8, log_every=1, checkpoint_every=6)
    with largest_file(size):
        code, error = call(*arguments(config, tmp_path))
    assert code == 1 and "Traceback" not in error
    last = error.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/{where} would outgrow") and "ulimit" in last
    assert not list((tmp_path / "checkpoints").iterdir())
    # With room again, the same command ends as if nothing had been.
    code, error = call(*arguments(config, tmp_path))
    assert code == 0 and "Done." in error
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 9))


def test_full_disk_of_metrics(tmp_path):
    """The line is cut off and told of at once; the next start leaves it out."""
    values = {"train/loss": 0.123456789}
    writer = MetricsWriter(tmp_path, 0, None, {})
    with largest_file(1_000), pytest.raises(OSError) as error:
        for step in range(1, 100):
            writer.write(step, values)
    assert error.value.filename == str(tmp_path / "metrics.jsonl") and step > 5
    with contextlib.suppress(OSError):
        writer.close()
    MetricsWriter(tmp_path, step, None, {}).close()
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) in (step - 1, step)  # TensorBoard may be what was full


def test_through_the_shell(tmp_path):
    command = [sys.executable, "-m", "fmrifm.pretrain", f"--workdir={tmp_path}/none"]
    file = "--config=configs/pretrain.py:d3,runlocal"
    bad = subprocess.run(
        [*command, file, "--config.data.tran=x"], cwd=ROOT, capture_output=True, text=True
    )
    assert_one_sentence((bad.returncode, bad.stderr), "'tran'", "'train'", expected=WRONG_USAGE)
    assert bad.stdout == "" and not (tmp_path / "none").exists()
