"""Several processes train as one device does, stop together, and others go on from there."""

import functools
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load

from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.trainer.loop import train
from tests.conftest import ROOT
from tests.trainer.commands import Run, free_port, metrics, weights

ROWS = """
import sys, jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 3)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from fmrifm.input.pipeline import local_rows
from fmrifm.trainer.mesh import batch_sharding, make_mesh, to_devices

for order, sizes in (([0, 3, 1, 4, 2, 5], {"data": 6}), (range(6), {"data": 3, "tensor": 2})):
    mesh = make_mesh(sizes, [jax.devices()[i] for i in order])
    rows = local_rows(batch_sharding(mesh), 12)
    batch = to_devices({"x": np.stack([rows, -rows], 1)}, batch_sharding(mesh))["x"]
    assert batch.shape == (12, 2)
    for shard in batch.addressable_shards:
        wanted = np.arange(12)[shard.index[0]]
        assert np.array_equal(shard.data, np.stack([wanted, -wanted], 1))
    print(rows.tolist())
"""


DAMAGE = """
import sys
from pathlib import Path
import jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
from data_tools.errors import InputError
from fmrifm.runs.checkpoint import Checkpoints, TrainState, restore_meta

spread, whole = (NamedSharding(jax.make_mesh((2,), ("x",)), P(*axes)) for axes in (("x",), ()))

def array(value, shape=(), where=whole):
    full = np.full(shape, value, np.float32)
    return jax.make_array_from_callback(shape, where, lambda index: full[index])

def state(step):
    return TrainState(array(step), {"a": array(step, (2, 5000), spread)}, {}, array(-1))

directory = Path(sys.argv[3], "checkpoints")
checkpoints = Checkpoints(directory, 3, 0)
for step in (1, 2):
    checkpoints.save(state(step), step, {})
checkpoints.wait()
if jax.process_index() == 0:
    file = max((directory / "2" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
multihost_utils.sync_global_devices("damaged")
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))
restored = checkpoints.restore_newest(like, lambda _: None)[1]
print(float(restored.step), float(restored.params["a"].addressable_shards[0].data[0, 0]))
if jax.process_index() == 0:
    (directory / "1" / "meta" / "metadata").unlink()
multihost_utils.sync_global_devices("damaged again")
try:
    restore_meta(directory)
except InputError as error:
    print("is damaged" in str(error))
checkpoints.save(state(2), 2, {})
checkpoints.close()
print(sorted(path.name for path in directory.iterdir()))
"""


def run_two(code: str, *arguments: str) -> list[list[str]]:
    """The lines that two processes print, which get a coordinator and their number."""
    command = [sys.executable, "-c", code, f"localhost:{free_port()}"]
    processes = [
        subprocess.Popen(
            [*command, str(i), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    found = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return found


def test_processes_agree_on_a_damaged_checkpoint(tmp_path):
    """Whichever of them reads the file; all go on from the one before."""
    found = run_two(DAMAGE, str(tmp_path))
    assert [lines[-3:] for lines in found] == [["1.0 1.0", "True", "['1', '2', '2.damaged']"]] * 2


def test_rows_of_hosts(tmp_path):
    """Rows of a host that do not lie together, and hosts that share some of their rows."""
    assert run_two(ROWS) == [
        ["[0, 1, 4, 5, 8, 9]", "[0, 1, 2, 3, 4, 5, 6, 7]"],
        ["[2, 3, 6, 7, 10, 11]", "[4, 5, 6, 7, 8, 9, 10, 11]"],
    ]


def assert_same(found, expected):
    """Equal to float32 rounding, at the end, too."""
    for ours, theirs in zip(metrics(found), metrics(expected), strict=True):
        assert ours.keys() == theirs.keys() and ours["step"] == theirs["step"]
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    ours, theirs = load(weights(found)), load(weights(expected))
    assert ours.keys() == theirs.keys()
    for name in ours:
        # A key's bias does nothing (softmax ignores a shift), so Adam moves it by noise.
        if not name.endswith("attn.k.bias"):
            assert np.abs(ours[name] - theirs[name]).max() < 1e-4, name


@pytest.mark.slow
def test_processes_come_and_go(toy_config, one_device, tmp_path):
    make = functools.partial(
        toy_config, total_steps=16, log_every=1, eval_every=8, checkpoint_every=8, figures=1,
        keep_best="held", eval_linear=True,
    )  # fmt: skip
    expected, cache = tmp_path / "one", tmp_path / "cache"
    assert train(make(), expected) == 0

    # Heads are split over hosts. A signal to one of four stops all after the same step.
    config, workdir = make(mesh__data=2, mesh__tensor=4), tmp_path / "run"
    four = Run(config, workdir, cache, processes=4, devices=2)
    codes = four.signal_when(lambda: four.reached(2), signal.SIGUSR1, process=3)
    assert codes == [STOPPED_EXIT_CODE] * 4, four.output
    assert "Stopped" in four.output[0] and not any("Stopped" in out for out in four.output[1:])
    step = metrics(workdir)[-1]["step"]
    assert 2 <= step < 16 and (workdir / "checkpoints" / str(step)).is_dir()
    assert [line["step"] for line in metrics(workdir) if "train/loss" in line] == list(
        range(1, step + 1)
    )
    assert len(list(workdir.glob("events*"))) == 1
    taken_over = shutil.copytree(workdir, tmp_path / "taken over")

    # Two continue, with parameters and rows split instead.
    config = make(mesh__fsdp=2, mesh__tensor=2, mesh__data=1)
    two = Run(config, workdir, cache, processes=2, devices=2)
    assert two.wait() == [0, 0], two.output
    assert f"from step {step}," in two.output[0]
    assert "Done." in two.output[0] and "Done." not in two.output[1]  # one speaks for both
    assert_same(workdir, expected)
    names = {path.name for path in workdir.iterdir() if not path.name.startswith("events")}
    assert names - {"uncommitted.diff"} == {
        *("checkpoints", "config.json", "figures", "goodput.jsonl", "metrics.jsonl", "model"),
        "provenance.json",
    }
    drawn = [sorted(p.name for p in (w / "figures").iterdir()) for w in (workdir, expected)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    assert len(list(workdir.glob("events*"))) == 2  # one a start

    # One device takes over what four have left.
    assert train(make(), taken_over) == 0
    assert_same(taken_over, expected)
