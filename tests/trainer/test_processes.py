"""Two processes of two devices each train as one device does, and stop together."""

import functools
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load

from fmrifm.trainer.stopping import STOPPED_EXIT_CODE
from tests.trainer.commands import Run, metrics, weights


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
def test_two_processes(toy_config, tmp_path):
    cache = tmp_path / "cache"
    make = functools.partial(
        toy_config, total_steps=24, log_every=1, eval_every=5, checkpoint_every=5, figures=1,
        keep_best="held",
    )  # fmt: skip
    one = Run(make(), tmp_path / "one", cache)
    assert one.wait() == [0], one.output

    # A signal to one of the two stops both after the same step.
    sharded, workdir = make(mesh__data=2, mesh__fsdp=2), tmp_path / "two"
    two = Run(sharded, workdir, cache, processes=2, devices=2)
    codes = two.signal_when(lambda: two.reached(3), signal.SIGUSR1, process=1)
    assert codes == [STOPPED_EXIT_CODE] * 2, two.output
    step = metrics(workdir)[-1]["step"]
    assert 3 <= step < 24 and (workdir / "checkpoints" / str(step)).is_dir()
    taken_over = shutil.copytree(workdir, tmp_path / "taken over")

    two = Run(sharded, workdir, cache, processes=2, devices=2)
    assert two.wait() == [0, 0], two.output
    assert_same(workdir, one.workdir)
    assert "Done." in two.output[0] and "Done." not in two.output[1]  # one speaks for both
    names = {path.name for path in workdir.iterdir() if not path.name.startswith("events")}
    assert names == {
        *("checkpoints", "config.json", "figures", "goodput.jsonl", "metrics.jsonl", "model")
    }
    drawn = [sorted(p.name for p in (w / "figures").iterdir()) for w in (workdir, one.workdir)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 5
    assert len(list(workdir.glob("events*"))) == 2  # one a start

    # One process takes over what two have left.
    alone = Run(make(), taken_over, cache)
    assert alone.wait() == [0], alone.output
    assert f"from step {step}," in alone.output[0]
    assert_same(taken_over, one.workdir)
