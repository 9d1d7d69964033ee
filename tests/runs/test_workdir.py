"""Runs in a bucket: as in a directory, also on another host, and while nothing can be copied."""

import contextlib
import json
import re
import time
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.published.open_model import open_model
from fmrifm.runs.checkpoint import Checkpoints, as_path, find_checkpoint, list_steps
from fmrifm.runs.port_model import port
from fmrifm.runs.workdir import Mirror, check_workdir, mirror_of
from fmrifm.trainer.loop import train
from fmrifm.trainer.program import Program
from fmrifm.trainer.stopping import StopSignal
from fmrifm.trainer.warm_start import warm_start
from tests.conftest import make_toy_config
from tests.runs.bucket import serve_bucket
from tests.trainer.commands import metrics, weights

gcsfs = pytest.importorskip("gcsfs")
pytestmark = [
    pytest.mark.usefixtures("one_device"),
    # Of orbax, after a checkpoint that could not be written.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def forget_buckets():
    """What was opened remembers where the bucket was."""
    from etils.epath import backend
    from orbax.checkpoint._src.path import gcs_utils

    gcsfs.GCSFileSystem.clear_instance_cache()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    gcs_utils.get_bucket.cache_clear()


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, serve_bucket() as bucket:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        forget_buckets()
        yield bucket
        forget_buckets()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket, and a host that has seen nothing of it."""
    server.objects.clear()
    server.refuse = None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "host"))
    return server


@pytest.fixture(scope="module")
def config(stores):
    return make_toy_config(
        stores, total_steps=8, log_every=1, eval_every=4, checkpoint_every=4, figures=1,
        keep_best="held",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(one_device, config, tmp_path_factory):
    """The same run in a directory."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train(config, workdir) == 0
    return workdir


def lines(bucket, run: str) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    text = bucket.read(f"{run}/metrics.jsonl").decode()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("perf/")}
        for line in text.splitlines()
    ]


def outputs(bucket, run: str) -> list[str]:
    """Names of what lies beside checkpoints."""
    return [
        re.sub(r"tfevents.*", "tfevents", name)
        for name in bucket.names(f"{run}/")
        if not name.startswith("checkpoints/")
    ]


def test_a_run_moves_to_another_host(bucket, config, finished, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "at", lambda _, step: step == 5)
        assert train(config, "gs://runs/a/b") == STOPPED_EXIT_CODE
    assert list_steps("gs://runs/a/b") == [4, 5]
    assert lines(bucket, "a/b") == metrics(finished)[:6]  # five steps, an evaluation
    del bucket.objects["a/b/checkpoints/5/commit_success.txt"]  # as if killed while saving it
    assert find_checkpoint("gs://runs/a/b")[1] == 4

    # Here not all can be copied, which ends the run with an error, but only at its end.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another host"))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    bucket.refuse = "figures|model"
    with pytest.raises(InputError, match="run could not be copied to gs://runs/a/b") as error:
        train(config, "gs://runs/a/b/")
    assert str(mirror_of("gs://runs/a/b")) in str(error.value)
    assert capsys.readouterr().err.count("training goes on") == 1  # once, not at every try
    assert lines(bucket, "a/b") == metrics(finished) and list_steps("gs://runs/a/b") == [4, 8]
    bucket.refuse = None
    assert train(config, "gs://runs/a/b") == 0
    assert lines(bucket, "a/b") == metrics(finished)
    assert bucket.read("a/b/model/model.safetensors") == weights(finished)
    local = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    local = {n for n in local if not n.startswith(("checkpoints/", "events"))}
    assert sorted([*local, *["events.out.tfevents"] * 3]) == outputs(bucket, "a/b")

    # What names a model may be in the bucket, too.
    assert open_model("gs://runs/a/b").step == 8
    assert port("gs://runs/a/b/checkpoints/4", str(tmp_path / "early")).step == 4
    program = Program(config, open_data(config).geometry)
    state, origin = warm_start(program, "gs://runs/a/b/checkpoints")
    assert int(state.step) == 0 and len(origin["subjects_seen"]) == 1


def test_a_mirror_follows_its_directory(bucket, tmp_path, monkeypatch):
    host, tmp_path = tmp_path, tmp_path / "mirror"
    whole = ["config.json", "figures/a.png", "metrics.jsonl", "model/b"]
    for name in (*whole, ".half/b", "figures/.b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    mirror = Mirror("gs://runs/m", tmp_path)
    assert mirror.upload(1)
    assert bucket.names("m/") == whole
    before = dict(bucket.objects)
    (tmp_path / "figures" / "a.png").unlink()  # by whom? Not by us
    (tmp_path / "model" / "b").unlink()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    mirror.close()
    assert bucket.read("m/metrics.jsonl") == (tmp_path / "metrics.jsonl").read_bytes()
    assert bucket.names("m/") == ["config.json", "figures/a.png", "metrics.jsonl"]
    assert bucket.objects["m/figures/a.png"] == before["m/figures/a.png"]  # not copied again

    # Of a run's curves the longer one counts, wherever it is; that of another run never.
    longer = '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    for theirs, kept in (("", 2), ('{"step": 1}\n', 2), (longer, 3), ('{"step": 0}\n', 1)):
        bucket.objects["m/metrics.jsonl"] = (theirs.encode(), 1)
        again = Mirror("gs://runs/m", tmp_path)
        again.fetch()
        assert (tmp_path / "metrics.jsonl").read_text().count("\n") == kept
        assert again.upload(1)
    assert bucket.objects["m/figures/a.png"] == before["m/figures/a.png"]

    # A place that cannot be read is not empty; one that was emptied is a new run's.
    def ls(*_, **__):
        raise FileNotFoundError("runs/m") from ConnectionRefusedError("no network")

    with monkeypatch.context() as patch:
        silent = SimpleNamespace(invalidate_cache=lambda: None, ls=ls)
        patch.setattr("fmrifm.runs.workdir.file_system", lambda _: (silent, "runs/m"))
        with pytest.raises(InputError, match="gs://runs/m cannot be read .*no network"):
            Mirror("gs://runs/m", tmp_path).fetch()
    assert (tmp_path / "metrics.jsonl").exists()
    bucket.objects.clear()
    Mirror("gs://runs/m", tmp_path).fetch()
    assert not list(tmp_path.rglob("*.*"))
    assert len(list(host.glob("mirror.*/metrics.jsonl"))) == 1  # kept aside


def test_places_that_cannot_be(bucket):
    for place, words in (
        ("s3://runs/run", "to directories and to gs:// only"),
        ("gs://none/run", "gs://none does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            check_workdir(place)
    checkpoints = Checkpoints(as_path("gs://runs/run/checkpoints"), 1, 0)
    bucket.refuse = "checkpoints"
    with pytest.raises(InputError, match="No checkpoint could be written to gs://runs/run"):
        checkpoints.save({"step": jnp.zeros(3)}, 1, {})
        checkpoints.wait()
    bucket.refuse = None
    with contextlib.suppress(InputError):  # the same one
        checkpoints.close()
    assert find_checkpoint("gs://runs/run") is None
