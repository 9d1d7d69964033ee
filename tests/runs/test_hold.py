"""One job at a time in a directory, and what a run reads of its own files and checkpoints."""

import fcntl
import json
import os
import socket
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from data_tools.errors import InputError
from fmrifm.runs.checkpoint import Checkpoints, TrainState
from fmrifm.runs.hold import LOCK, hold, wait_for
from fmrifm.runs.metrics_writer import MetricsWriter, read_metrics
from fmrifm.runs.workdir import Workdir, check_workdir


def test_a_second_job_in_a_directory_is_refused_by_name(tmp_path):
    with hold(tmp_path / "run"), pytest.raises(InputError, match="run is in use by process .* on"):
        Workdir(tmp_path / "run").open()
    with pytest.raises(KeyError), hold(tmp_path / "run"):
        raise KeyError
    workdir = Workdir(tmp_path / "run")
    workdir.open()
    with pytest.raises(InputError, match="in use"), hold(tmp_path / "run"):
        pass
    workdir.close()
    with hold(tmp_path / "run"), hold(tmp_path / "run" / "probes"):
        assert (tmp_path / "run" / ".in-use").exists()
    assert not (tmp_path / "run").exists()  # nothing was written
    with hold(tmp_path / "run"):
        (tmp_path / "run" / "kept").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


def test_the_lock_of_a_killed_job_is_taken_over_by_name(tmp_path, capsys):
    with hold(tmp_path):
        note = (tmp_path / LOCK).read_text()
    words = (
        f"process {os.getpid()} of ",
        f" on {socket.gethostname()} since {time.strftime('%Y')}",
    )
    assert all(x in note for x in words) and capsys.readouterr().err == ""
    (tmp_path / LOCK).write_text(note)  # which a kill leaves, without the lock
    with hold(tmp_path):
        assert capsys.readouterr().err == f"{tmp_path} is taken over from {note}, which ended.\n"
        assert (tmp_path / LOCK).read_text().startswith(words[0])
    assert not (tmp_path / LOCK).exists()


def test_what_killed_jobs_were_writing_is_removed_and_nothing_else(tmp_path):
    """Dead: no lock, or old. Living: locked, or young. Others: names that are not ours."""
    dead = [".config.json.new", "figures/.a.png.new"]
    living = [".goodput.jsonl.new", ".young.json.0a1b2c3d", "figures/.b.png.0a1b2c3d"]
    old = [".metrics.jsonl.0a1b2c3d", "figures/.c.png.0a1b2c3d", ".model.0a1b2c3d/config.json",
           ".model.0a1b2c3d.old/config.json"]  # fmt: skip
    others = ["config.json", ".hidden", ".note.0a1b2c3d.txt", "deep/er/.x.0a1b2c3d", "x.new"]
    for name in (*dead, *living, *old, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        if name in (*old, *others):
            for path in (tmp_path / name, (tmp_path / name).parent):
                os.utime(path, (0, 0))
    with open(tmp_path / living[0]) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with hold(tmp_path):
            left = {str(x.relative_to(tmp_path)) for x in tmp_path.rglob("*") if x.is_file()}
    # The kill came when the old model had been moved and the new one had no name yet.
    assert left == {*living, *others, "model/config.json", LOCK}


def test_who_waits_comes_after_the_other(tmp_path, capsys):
    seen, inside = [], threading.Event()

    def second():
        inside.wait()
        with wait_for(tmp_path):
            seen.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with wait_for(tmp_path):
        inside.set()
        thread.join(0.2)
        seen.append("first")
    thread.join()
    assert seen == ["first", "second"] and "Waiting for another job" in capsys.readouterr().err


def test_outputs_in_a_store_are_refused(stores, tmp_path):
    (tmp_path / "link").symlink_to(stores["train"])
    for place in (stores["train"], stores["train"] / "shards" / "run", tmp_path / "link" / "run"):
        with pytest.raises(InputError, match="is in the store"):
            check_workdir(place)
        with pytest.raises(InputError, match="is in the store"), hold(place):
            pass
    assert not (stores["train"] / ".in-use").exists()
    with hold(stores["train"].parent / "run"):
        pass


@pytest.mark.parametrize("bad", [b"\n", b"\0\0\n", b'{"step": 3, "lo\n', b"\xff\xfe\n", b"[3]\n",
                                 b'{"note": 1}\n'])  # fmt: skip
def test_a_damaged_line_deletes_nothing_that_follows(tmp_path, bad, capsys):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}).encode() + b"\n" for step in range(1, 21)]
    path.write_bytes(b"".join([*lines[:2], bad, *lines[2:], b'{"step": 2']))
    MetricsWriter(tmp_path, 19, None, {}).close()
    assert path.read_bytes() == b"".join([*lines[:2], bad, *lines[2:19]])
    capsys.readouterr()
    assert [line["step"] for line in read_metrics(path)] == list(range(1, 20))
    assert ("damaged lines (3)" in capsys.readouterr().err) == bool(bad.strip())


def test_a_checkpoint_of_another_model_is_not_called_damaged(tmp_path):
    def state(width):
        params = {"encoder": {"kernel": jnp.ones((2, width))}}
        return TrainState(jnp.int32(1), params, {"mu": params}, jnp.int32(-1))

    def abstract(width):
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
        return jax.tree.map(like, state(width))

    checkpoints = Checkpoints(tmp_path, 1, 0)
    checkpoints.save(state(2), 1, {})
    checkpoints.wait()
    restored = checkpoints.restore_newest(abstract(2), lambda _: None)[1]
    assert restored.params["encoder"]["kernel"].shape == (2, 2)
    words = r"1 holds another model, whose encoder/kernel has shape \(2, 2\) and not \(2, 3\)"
    with pytest.raises(InputError, match=words):
        checkpoints.restore_newest(abstract(3), lambda _: None)
    checkpoints.close()
