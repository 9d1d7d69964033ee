"""The loop: what a run leaves behind is the same, however often it was killed, stopped, resumed."""

import json
import shutil
import signal
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl
from tensorboard.compat.proto.event_pb2 import Event

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.data import open_data
from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.runs.checkpoint import restore_params
from fmrifm.runs.goodput import LOSSES
from fmrifm.runs.metrics_writer import read_metrics
from fmrifm.trainer.evaluate import Evaluator
from fmrifm.trainer.loop import train
from fmrifm.trainer.mesh import to_devices
from fmrifm.trainer.program import Program
from fmrifm.trainer.stopping import NonFiniteError, StopSignal
from fmrifm.trainer.throughput import Throughput
from fmrifm.trainer.warm_start import warm_start
from tests.conftest import make_toy_config, write_toy_store
from tests.trainer.commands import Run, metrics, saved_steps, weights

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    # Of orbax, after a damaged checkpoint.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STEPS = 8


@pytest.fixture(scope="module")
def own_stores(stores, tmp_path_factory):
    """Copies that a test may damage and mend."""
    root = tmp_path_factory.mktemp("own")
    return {name: shutil.copytree(path, root / name) for name, path in stores.items()}


@pytest.fixture(scope="module")
def make_config(own_stores):
    """The toy config of this file: every program of it has the same training step."""

    def make(**overrides):
        return make_toy_config(own_stores, **{"total_steps": STEPS, "log_every": 1} | overrides)

    return make


@pytest.fixture(scope="module")
def finished(one_device, make_config, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train(make_config(keep_best="held", figures=1), workdir) == 0
    return workdir


@pytest.fixture
def stop_at(monkeypatch):
    """Makes runs behave as if a signal came during a step; None for no more."""

    def set_step(step):
        monkeypatch.setattr(StopSignal, "at", lambda _, now: now == step)

    return set_step


def contents(directory) -> dict:
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# Killed and stopped, in processes of their own


@pytest.mark.slow
def test_kills_and_signals_change_nothing(make_config, tmp_path):
    config = make_config(total_steps=60, eval_every=10, checkpoint_every=14, keep_best="held")
    cache = tmp_path / "cache"
    calm = Run(config, tmp_path / "calm", cache)
    assert calm.wait() == [0], calm.output
    expected = metrics(calm.workdir)
    assert [line["step"] for line in expected if "train/loss" in line] == list(range(1, 61))
    assert [line["step"] for line in expected if "eval/held/loss" in line] == [*range(10, 61, 10)]

    killed = tmp_path / "killed"
    run = Run(config, killed, cache)
    assert run.signal_when(lambda: run.reached(17), signal.SIGKILL) == [-signal.SIGKILL]
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"step": 59, "train/lo')  # cut off
    run = Run(config, killed, cache)
    half_saved = "*.orbax-checkpoint-tmp"
    seen = lambda: run.reached(20) and any((killed / "checkpoints").glob(half_saved))  # noqa: E731
    assert run.signal_when(seen, signal.SIGKILL) == [-signal.SIGKILL]
    assert not (killed / "model").exists()

    stopped = tmp_path / "stopped"
    for number, step in ((signal.SIGINT, 5), (signal.SIGTERM, 30)):
        run = Run(config, stopped, cache)
        codes = run.signal_when(lambda run=run, step=step: run.reached(step), number)
        assert codes == [STOPPED_EXIT_CODE], run.output
        assert metrics(stopped)[-1]["step"] == int(saved_steps(stopped)[-1])  # saved, no step lost

    for workdir in (killed, stopped):
        run = Run(config, workdir, cache)
        assert run.wait() == [0], run.output
        assert metrics(workdir) == expected
        assert weights(workdir) == weights(calm.workdir)
        assert not list((workdir / "checkpoints").glob(half_saved))
    assert saved_steps(killed) == saved_steps(calm.workdir)
    for workdir, repeated in ((killed, True), (stopped, False)):
        lines = read_metrics(workdir / "goodput.jsonl")
        assert np.ptp([x["time"] - sum(x["seconds"].values()) for x in lines]) < 0.05  # no gaps
        last = lines[-1]
        assert (last["start"], last["step"], last["event"]) == (3, 60, "end of run")
        # Between the save of a stop and the end lies a moment, which may round to a millisecond.
        assert (last["seconds"]["repeated_steps"] > 0.005) == repeated
        assert all(last["seconds"][name] > 0 for name in ("steps", "compile", "down_time"))


def test_stopped_at_an_evaluation(make_config, finished, stop_at, tmp_path, capsys):
    """The evaluation that there was no time for is made up for, with its best checkpoint.

    Profiles change nothing; each start writes one, the first of two steps that the stop left it.
    """
    config = make_config(keep_best="held")
    stop_at(4)
    assert train(config, tmp_path, profile="3:6") == STOPPED_EXIT_CODE
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    assert "\ngoodput " in capsys.readouterr().err
    assert "eval/held/loss" not in metrics(tmp_path)[-1]
    stop_at(5)
    assert train(config, tmp_path) == STOPPED_EXIT_CODE
    assert metrics(tmp_path) == metrics(finished)[:7]  # five steps, two evaluations
    stop_at(None)
    assert train(config, tmp_path, profile="6:1") == 0
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 2
    told = capsys.readouterr().err
    assert "(3 in all)" in told and "from step 5 on" in told and "eval/held/loss " in told
    assert metrics(tmp_path) == metrics(finished) and weights(tmp_path) == weights(finished)
    assert tensorboard_scalars(tmp_path) == tensorboard_scalars(finished)


# What a run leaves behind


def tensorboard_scalars(workdir) -> dict:
    """(name, step) -> float32, with what a restart hides left out."""
    scalars = {}
    for path in sorted(workdir.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            size = struct.unpack("Q", data[:8])[0]
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                scalars = {k: v for k, v in scalars.items() if k[1] < event.step}
            for value in event.summary.value:
                if not value.tag.startswith("perf/"):
                    scalars[value.tag, event.step] = value.simple_value
    return scalars


def test_outputs(finished):
    shown = {
        (name, line["step"]): np.float32(value)
        for line in metrics(finished)
        for name, value in line.items()
        if name != "step"
    }
    assert tensorboard_scalars(finished) == shown
    figures = sorted(path.name for path in (finished / "figures").iterdir())
    assert figures == [f"held_0_step-000000{step}.png" for step in (2, 4, 6, 8)]
    assert (finished / "figures" / figures[0]).read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished / "config.json").read_text())["total_steps"] == STEPS
    lines = [x for x in read_metrics(finished / "metrics.jsonl") if "train/loss" in x]
    lost = {f"perf/lost/{cause}" for cause in LOSSES}
    for line in lines:
        assert {name for name in line if name.startswith("perf/")} == lost | {
            f"perf/{name}"
            for name in (
                *("step_time", "step_time_p50", "step_time_p90", "step_time_p99", "goodput"),
                *("clips_per_second", "clips_per_second_per_chip", "data_wait_fraction"),
                *("encoder_tokens_per_second", "decoder_tokens_per_second"),
                *("wall_seconds", "compile_seconds"),
            )
        }
        assert line["perf/goodput"] + sum(line[name] for name in lost) == pytest.approx(1)
        clips = line["perf/clips_per_second"]  # 8 of 32 patches are seen, four tokens each
        assert line["perf/encoder_tokens_per_second"] / clips == pytest.approx(1 + 8 * 4)
        assert line["perf/decoder_tokens_per_second"] / clips == pytest.approx(1 + 32 * 4)
    first, last = (metrics(finished)[i] for i in (2, -1))
    assert last["eval/held/loss"] < first["eval/held/loss"]


def test_host_reads_nothing_but_logged_numbers(make_config, tmp_path, monkeypatch):
    """Each read would stop the devices: only logged metrics are, after the next step began."""
    reads, at_step = [], []
    value = ArrayImpl._value

    def read(array):
        reads.append(array.shape)
        return value.fget(array)

    monkeypatch.setattr(ArrayImpl, "_value", property(read))
    next_batch = Throughput.next_batch

    def count(*args):
        batch = next_batch(*args)
        at_step.append(len(reads))
        return batch

    monkeypatch.setattr(Throughput, "next_batch", count)
    config = make_config(log_every=3, eval_every=0, checkpoint_every=100)
    assert train(config, tmp_path) == 0
    assert np.diff(at_step).tolist() == [0, 0, 0, 5, 0, 0, 5]  # steps 3 and 6; five numbers each


def test_retention(make_config, tmp_path, monkeypatch, stop_at):
    """The newest, multiples, and the best of all evaluations so far, also after a restart."""
    losses = {1: 9.0, 2: 5.0, 3: 7.0, 4: 5.0, 5: 6.0, 6: 4.0, 7: 8.0, 8: 8.0}
    monkeypatch.setattr(Evaluator, "__call__", lambda _, p, step: {"eval/held/loss": losses[step]})
    config = make_config(
        eval_every=1, checkpoint_every=4, keep_every=5, keep_checkpoints=1, keep_best="held"
    )
    for stop, expected in ((3, "23"), (5, "25"), (None, "568")):
        stop_at(stop)
        assert train(config, tmp_path) == (STOPPED_EXIT_CODE if stop else 0)
        # Step 5 is a multiple of 5, but is only kept if some reason saved it: the stop did.
        assert saved_steps(tmp_path) == list(expected)


# Resuming with something changed


def test_changed_config_is_refused(make_config, finished):
    before = contents(finished)
    changes = {"optim__weight_decay": 0.1, "data__eval_clips": 4, "keep_best": "held", "figures": 1}
    with pytest.raises(InputError) as error:
        train(make_config(**changes), finished)
    for words in (
        "data.eval_clips (16 -> 4)",
        "optim.weight_decay (0.05 -> 0.1)",
        "--allow_config",
    ):
        assert words in str(error.value)
    assert "figures" not in str(error.value) and contents(finished) == before


def test_changes_allowed(make_config, finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    harmless = {"mesh__data": 1, "data__threads": 1, "keep_checkpoints": 5, "log_every": 3}
    assert train(make_config(**harmless), workdir) == 0
    assert train(make_config(optim__b1=0.8), workdir, allow_config_change=True) == 0
    assert "optim.b1 (0.9 -> 0.8)" in capsys.readouterr().out
    assert metrics(workdir) == metrics(finished) and weights(workdir) == weights(finished)


def test_changed_store_is_refused(make_config, own_stores, finished, tmp_path):
    before = contents(finished)
    aside = shutil.move(own_stores["train"], tmp_path / "aside")
    try:
        write_toy_store(own_stores["train"], seed=77, subjects=5)
        with pytest.raises(InputError, match=f"the contents of {own_stores['train']}"):
            train(make_config(), finished)
    finally:
        shutil.rmtree(own_stores["train"])
        shutil.move(aside, own_stores["train"])
    assert contents(finished) == before


def spoil(step: Path) -> None:
    """Flips one bit of the largest array file of a checkpoint."""
    file = max(step.rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside(make_config, finished, tmp_path, capsys):
    """The run goes on from the one before, to the same numbers; nothing is deleted."""
    workdir, config = shutil.copytree(finished, tmp_path / "run"), make_config(keep_best="held")
    checkpoints, steps = workdir / "checkpoints", saved_steps(workdir)
    spoil(checkpoints / "8")
    with pytest.raises(InputError, match="Checkpoint 8 of .* is damaged .*state/.* has changed"):
        train(make_config(init_from=str(workdir)), tmp_path / "other")
    assert train(config, workdir) == 0
    report = [x for x in capsys.readouterr().err.splitlines() if "is damaged" in x]
    assert len(report) == 1 and "is kept as 8.damaged, and" in report[0]
    assert saved_steps(workdir) == sorted([*steps, "8.damaged"])
    assert metrics(workdir) == metrics(finished) and weights(workdir) == weights(finished)
    for step in steps:
        spoil(checkpoints / step)
    before = saved_steps(workdir)
    with pytest.raises(InputError, match="Checkpoint 8 of .* and there is no other one: copy"):
        train(config, workdir)
    assert saved_steps(workdir) == before


def test_a_damaged_checkpoint_without_checksums_is_named(make_config, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "checkpoints/8/checksums.json").unlink()
    for file in sorted((workdir / "checkpoints/8/state").rglob("d/*")):
        file.write_bytes(file.read_bytes()[:100])
    for config, place in (
        (make_config(keep_best="held"), workdir),
        (make_config(init_from=str(workdir)), tmp_path / "other"),
    ):
        with pytest.raises(InputError, match="Checkpoint 8 of .* is damaged"):
            train(config, place)


def test_a_lost_evaluation_is_made_again(make_config, finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = workdir / "metrics.jsonl"
    *others, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*others, last.replace(b"1", b"2", 1)]))  # still JSON
    assert train(make_config(keep_best="held"), workdir) == 0
    assert metrics(workdir) == metrics(finished)
    assert "left out damaged lines (1 near its end)" in capsys.readouterr().err


# Numbers that are not finite


def spoil_late(config, store):
    """Puts a NaN where only a late step looks; returns that step (from 1), the run, the mending."""
    data = open_data(config)
    clips = Program(config, data.geometry).train_batches(data).clips
    seen = set()
    for step in range(STEPS):
        drawn = clips(step)
        frames = {
            (int(run), int(start) + i)
            for run, start in zip(drawn.run, drawn.start, strict=True)
            for i in range(config.data.num_frames)
        }
        if step >= 3 and frames - seen:
            break
        seen |= frames
    run, frame = min(frames - seen)
    line = data.train[0].store.runs[run]
    shard = np.lib.format.open_memmap(store / "shards" / "bold-00000.npy", "r+")
    place = (line["first_frame"] + frame, 3, 30)
    good, shard[place] = shard[place], np.nan
    shard.flush()

    def mend():
        shard[place] = good
        shard.flush()

    return step + 1, line["key"], mend


def test_non_finite_loss(make_config, own_stores, finished, tmp_path):
    # A run with a NaN does not match its checksum, so that it would be refused before.
    config = make_config(checkpoint_every=1, log_every=4, keep_best="held", data__verify=False)
    bad_step, key, mend = spoil_late(config, own_stores["train"])
    try:
        with pytest.raises(NonFiniteError) as error:
            train(config, tmp_path)
    finally:
        mend()
    assert f"step {bad_step} " in str(error.value) and key in str(error.value)
    assert f"checkpoint {bad_step - 1} is intact" in str(error.value)
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert report["step"] == bad_step and report["runs_with_non_finite_data"] == [key]
    assert saved_steps(tmp_path)[-1] == str(bad_step - 1)
    program = Program(config, open_data(config).geometry)
    params = restore_params(tmp_path, program.abstract_state().params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    # From there on with mended data, as if nothing had been.
    assert train(config, tmp_path) == 0 and weights(tmp_path) == weights(finished)
    assert not (tmp_path / "non_finite.json").exists()


# Warm starts


@pytest.mark.parametrize("part", ["model", ".", "checkpoints/8"])
def test_warm_start(make_config, finished, part, capsys):
    config = make_config(data__train=make_config().data.train.replace("train", "other"))
    program = Program(config, open_data(config).geometry)
    state, origin = warm_start(program, str(finished / part))
    last = restore_params(finished, program.abstract_state().params)
    jax.tree.map(np.testing.assert_array_equal, state.params, last)
    assert int(state.step) == 0 and len(origin["subjects_seen"]) == 1
    assert origin["sources"] == [] and origin["license"] == ""
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    told = capsys.readouterr().out
    assert "overlap by" in told and "100" not in told  # another mask on the same grid
    assert "NOTE: The training data has 87.5% of the pixels that the model was trained on" in told


@pytest.mark.parametrize("part", ["model", "."])
def test_warm_start_of_another_model_is_refused(make_config, finished, part, tmp_path):
    with pytest.raises(InputError, match="shape|sizes") as error:
        config = make_config(model__embed_dim=128, init_from=str(finished / part))
        train(config, tmp_path / "run")
    assert str(finished) in str(error.value) and "\n" not in str(error.value)
    mask = np.ones((64, 32), bool)  # as many patches, in another arrangement
    store = write_toy_store(tmp_path / "store", 5, 2, geometry=Geometry("tall", mask, (8, 8)))
    with pytest.raises(InputError, match="grid of 64 x 32"):
        config = make_config(data__train=str(store), data__eval="", init_from=str(finished / part))
        train(config, tmp_path / "run")
    with pytest.raises(InputError, match="nowhere"):
        train(make_config(init_from=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_from_a_model(make_config, finished, tmp_path):
    assert train(make_config(init_from=str(finished / "model")), tmp_path) == 0
    assert metrics(tmp_path)[0]["train/loss"] < metrics(finished)[0]["train/loss"]
    assert len(json.loads((tmp_path / "model/config.json").read_text())["subjects_seen"]) == 2


# Evaluation


def evaluate(config, workdir, figures=None):
    """The Evaluator's numbers for the newest weights of a workdir."""
    data = open_data(config)
    program = Program(config, data.geometry)
    params = restore_params(workdir, program.abstract_state().params)
    with program.scope():
        return Evaluator(program, data.evals, figures)(params, STEPS)


def test_evaluation_is_the_mean_over_every_clip(make_config, finished):
    logged = {k: v for k, v in metrics(finished)[-1].items() if k != "step"}
    assert logged["eval/held/clips"] == 9
    assert evaluate(make_config(), finished) == logged
    # Batches of 8 end with one that holds a single clip, batches of 5 with one that holds four.
    found = evaluate(make_config(batch_size=5, seed=3), finished)
    assert found == pytest.approx(logged, rel=1e-6)
    # Clip by clip, each one read and scored by itself.
    config = make_config(batch_size=1)
    data = open_data(config)
    program = Program(config, data.geometry)
    params = restore_params(finished, program.abstract_state().params)
    batches = program.eval_batches(data.evals["held"], data.geometry)
    score = program.eval_functions(program.make_task(data.geometry))[0]
    with program.scope():
        sums = [
            score(params, to_devices(b, program.batch_sharding))
            for b in (batches[i] for i in range(len(batches)))
        ]
    error, power, pixels = np.sum(np.array(sums, np.float64), axis=0)
    assert len(sums) == 9 and len({float(s.pixels) for s in sums}) > 1
    assert logged["eval/held/loss"] == pytest.approx(error / pixels, rel=1e-6)
    assert logged["eval/held/loss_zero"] == pytest.approx(power / pixels, rel=1e-6)


def test_evaluation_sets(make_config, own_stores, finished):
    """Several sets, one with another mask; eval_clips limits each."""
    both = f"held={own_stores['eval']},other={own_stores['other']}"
    found = evaluate(make_config(data__eval=both, data__eval_clips=4), finished)
    assert found["eval/held/clips"] == found["eval/other/clips"] == 4
    assert found["eval/other/loss"] != found["eval/held/loss"] and np.isfinite(
        found["eval/other/loss"]
    )
    assert 0.9 < found["eval/other/loss_zero"] < 1.1  # normalised over its own pixels
