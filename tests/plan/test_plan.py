"""Plans: numbers that follow from the config, messages of each layout, and kind answers."""

import json
import subprocess
import sys

import jax
import pytest

from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.model.flops import clip_tokens, count_flops
from fmrifm.plan.feeding import plan_feeding
from fmrifm.plan.plan import _memory_from, _operations, make_plan, with_batch
from fmrifm.plan.plan_table import describe, verdict
from fmrifm.plan.search import search
from fmrifm.trainer.program import Program
from fmrifm.trainer.throughput import CHIPS, Chip
from tests.conftest import ROOT, toy_geometry

FIELDS = (
    "topology chips params flops_per_clip xla_flops hbm_bytes fits collectives step_seconds "
    "mfu_bound clips_per_second host_bytes_per_second compile_seconds batch_per_chip"
).split()


@pytest.fixture(scope="module")
def geometry(toy_config):
    return open_data(toy_config()).geometry


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"remat": "dots"},
        {"remat": "attention"},
        {"remat": "full"},
        {"decoding": "cross"},
        {"decoding": "crossreg", "reg_tokens": 4},
        {"masking": "random", "pred_mask_ratio": 0.4},
    ],
)
def test_the_formula_counts_what_xla_counts(toy_config, geometry, changes):
    """Of models wide enough for matrix products to be what counts."""
    wide = {"embed_dim": 256, "decoder_embed_dim": 192, "num_heads": 4, "patch": 8}
    changes = {f"model__{name}": value for name, value in (wide | changes).items()}
    program = Program(toy_config(attention="xla", **changes), geometry, jax.devices()[:1])
    found = _operations(program, None)
    flops = found["flops_per_clip"]
    assert flops["with_padding"] == flops["total"] + flops["recompute"]
    assert (flops["recompute"] > 0) == ("model__remat" in changes)
    assert 1 < found["xla_flops"] / flops["with_padding"] < 1.12


def test_what_padding_and_kernels_cost(toy_config):
    program = Program(toy_config(), toy_geometry(cut_corner=True), jax.devices()[:1])
    options, n = program.options, program.task.objective.geometry.n_patches
    plain, padded = count_flops(options, n), count_flops(options, n, "splash", 128)
    assert plain.with_padding == plain.total and plain.recompute == 0
    # The heads are 64 wide, not 128.
    assert padded.total == plain.total and padded.with_padding > 3 * padded.total
    assert 0 < padded.recompute < padded.attention and plain.off_cortex > 0
    seen, decoded = clip_tokens(options, n)
    assert seen == 1 + options.visible_count * options.slots and decoded == 1 + n * options.slots


@pytest.mark.parametrize(
    "mesh, allowed",
    [
        ({"data": 8}, {("all-reduce", "data")}),
        ({"dcn_data": 2, "data": 4}, {("all-reduce", "dcn_data+data")}),
        ({"fsdp": 8}, {("all-reduce", "fsdp"), ("all-gather", "fsdp"), ("reduce-scatter", "fsdp")}),
        (
            {"data": 4, "tensor": 2},
            {("all-reduce", "data"), ("all-reduce", "tensor"), ("all-gather", "tensor")},
        ),
    ],
)
def test_messages_of_each_layout(toy_config, geometry, mesh, allowed):
    """Gradients are summed, weights are gathered; tokens stay where they are."""
    config = toy_config(**{f"mesh__{name}": size for name, size in mesh.items()})
    plan = make_plan(config, geometry, jax.devices()[:8], "cpu:8")
    assert plan["fits"] and set(FIELDS) <= set(plan) and plan["chips"] == 8
    token_bytes = 4 * config.model.embed_dim * 8  # of one token of each clip
    large = {(c["op"], c["axis"]): c["bytes"] for c in plan["collectives"]}
    large = {key: size for key, size in large.items() if size > token_bytes}
    assert set(large) <= allowed, large
    weights = 4 * plan["params"]
    assert any(size > 0.4 * weights for size in large.values())
    if "tensor" not in mesh:
        assert sum(large.values()) < 3.5 * weights
    else:  # small weights, which are computed in parts but held whole
        assert large[("all-gather", "tensor")] <= weights
    json.dumps(plan)
    assert "Compiled." in describe(plan)


def test_times_follow_from_peaks(toy_config, geometry, monkeypatch):
    """On a chip that does nothing else, a step takes what its slowest part takes."""
    chip = Chip(1e9, 2**40, 1e12, 1e12, 1e12, 1)
    monkeypatch.setattr("fmrifm.plan.plan.find_chip", lambda device: chip)
    plan = make_plan(toy_config(attention="xla"), geometry, jax.devices()[:2], "two")
    seconds = plan["step_seconds"]
    assert seconds["predicted"] == seconds["compute"] > seconds["memory"] > 0
    assert seconds["compute"] == pytest.approx(plan["flops_per_clip"]["total"] * 4 / 1e9)
    assert plan["mfu_bound"] == pytest.approx(1) and plan["fits"]
    assert plan["clips_per_second"] == pytest.approx(8 / seconds["predicted"])
    clip = 16 * geometry.n_patches * geometry.patch_dim * 2
    assert plan["host_bytes_per_second"] / plan["clips_per_second"] == pytest.approx(clip, rel=0.05)
    text = describe(plan)
    assert "bound by compute: at most 100% utilisation" in text
    slow = plan | {"step_seconds": seconds | {"memory": 2 * seconds["compute"]}}
    assert "bound by memory" in verdict(slow) and "--config.optim" not in verdict(slow)
    assert "--config.optim.accumulation" in verdict(slow | {"batch_per_chip": 32})
    assert "--config.optim" not in verdict(slow | {"batch_per_chip": 32, "accumulation": 4})
    assert "--config.data.threads=2" in text and "--config.data.workers=1 " in text


def test_settings_that_feed_a_host():
    """1,600 clips of 3 MB a second on 4 hosts of 4 chips, at 0.1 s + 3 MB / 85 MB/s a request."""
    feeding = plan_feeding(1600, 3e6, frames=16, hosts=4, chips=16)
    assert (feeding["chip"], feeding["host"]) == (3e8, 1.2e9)
    assert feeding["workers"] == 3 and feeding["requests"] == 19  # 54.1 under way
    assert (feeding["window"], feeding["window_share"]) == (24, 24 / 64)


def test_what_does_not_fit_is_an_answer(toy_config, geometry, monkeypatch):
    chip = Chip(1e9, 2**20, 1e12, 1e12, 1e12, 1)
    monkeypatch.setattr("fmrifm.plan.plan.find_chip", lambda device: chip)
    plan = make_plan(toy_config(), geometry, jax.devices()[:2], "two")
    assert not plan["fits"]
    text = verdict(plan)
    assert "too much" in text and "--config.model.remat=dots" in text and "mesh.fsdp=2" in text
    error = jax.errors.JaxRuntimeError
    for message in (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 43.50G of 15.75G hbm.",
        "RESOURCE_EXHAUSTED: E1000: the total memory (43.50G) exceeds available HBM (15.75G).",
    ):
        found = _memory_from(message, error(message))
        assert (found["peak"], found["limit"]) == (43.5 * 2**30, 15.75 * 2**30)
    for message in ("INTERNAL: a bug", "RESOURCE_EXHAUSTED: memory space vmem. 18.5M of 16.0M."):
        with pytest.raises(error):
            _memory_from(message, error(message))


def test_search_finds_the_largest_batch(toy_config, monkeypatch):
    """Of a chip of 60 GiB, a state of 10 and clips of up to 2."""

    def plan(config, geometry, devices, topology):
        clip = {"none": 20.0, "dots": 1.0, "attention": 0.4, "full": 0.3}[config.model.remat]
        clips = config.batch_size / 4
        limit = 60 * 2**30
        peak = 2**30 * (10 / config.mesh.fsdp + clip * clips)
        return {
            "fits": peak <= limit, "hbm_bytes": {"peak": peak, "limit": limit}, "mesh": {},
            "remat": config.model.remat, "batch_per_chip": clips, "mfu_bound": 0.5,
            "clips_per_second": clips * {"dots": 1.2}.get(config.model.remat, 1 - clip / 100),
        }  # fmt: skip

    monkeypatch.setattr("fmrifm.plan.search.make_plan", plan)
    found = search(toy_config(), None, jax.devices()[:4], "made up")
    tried = [(x["remat"], x["batch_per_chip"]) for x in found["search"]]
    assert tried[:4] == [("none", 2), ("dots", 32), ("attention", 64), ("full", 128)]
    assert len(tried) == 8 and found["remat"] == "full" and found["batch_per_chip"] == 128


def test_batches_for_a_number_of_chips(toy_config):
    devices = jax.devices()[:8]
    config, change = with_batch(toy_config(batch_size=6, mesh__tensor=2), devices, 0)
    assert config.batch_size == 8 and "6 does not divide into 4 parts" in change
    config, change = with_batch(toy_config(optim__accumulation=2), devices, 4)
    assert config.batch_size == 32 and not change
    for changes in ({"optim__accumulation": 0}, {"mesh__data": 0}, {"mesh__fsdp": -1}):
        with pytest.raises(InputError):
            with_batch(toy_config(**changes), devices, 0)


def test_peaks_have_all_that_a_plan_needs():
    for name, chip in CHIPS.items():
        if name.startswith("TPU"):
            assert chip.flops / chip.bandwidth > 100 and chip.bandwidth > chip.network
            assert chip.network > chip.outer_network > 0 and chip.memory > 15 * 2**30


def command(*arguments):
    arguments = [sys.executable, "-m", "fmrifm.plan", *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)


def test_the_command_without_chips(stores, tmp_path):
    config = [
        "--config=configs/pretrain.py:d3,runlocal", f"--config.data.train={stores['train']}",
        "--config.model.patch=8", "--config.model.mask_ratio=0.75",
    ]  # fmt: skip
    path = tmp_path / "plan.json"
    done = command(*config, "--topology=cpu:4", "--batch_per_chip=1", f"--json={path}")
    assert done.returncode == 0, done.stderr
    plan = json.loads(path.read_text())
    assert plan["chips"] == 4 and plan["batch_size"] == 4 and plan["fits"]
    assert "memory on a chip" in done.stdout and "all-reduce" in done.stdout
    done = command(*config, "--topology=v5e:3x7")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.tpu
def test_the_tpu_compiler(stores, tmp_path, monkeypatch):
    """A step with splash attention over a slice that is not there, and one that does not fit."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the library exits at flags of CPUs
    path = tmp_path / "plan.json"
    config = [
        "--config=configs/pretrain.py:d3", f"--config.data.train={stores['train']}",
        "--config.model.patch=8", "--config.model.mask_ratio=0.75", "--config.model.depth=1",
        "--config.model.decoder_depth=1", "--topology=v5e:2x2", f"--json={path}",
    ]  # fmt: skip
    done = command(*config)
    assert done.returncode == 0, done.stderr
    plan = json.loads(path.read_text())
    assert plan["attention"] == "splash" and plan["chips"] == 4 and plan["fits"]
    assert plan["hbm_bytes"]["limit"] == 15.75 * 2**30 > plan["hbm_bytes"]["peak"] > 2**20
    assert {(c["op"], c["axis"]) for c in plan["collectives"]} == {("all-reduce", "data")}
    assert 0 < plan["mfu_bound"] < 1


def test_topologies_that_are_not_there():
    from fmrifm.plan.topology import open_topology

    for name, slices in (("cpu:0", 1), ("cpu", 1), ("cpu:8", 2), ("v5e:2x2", 0)):
        with pytest.raises(InputError, match="topology|slices"):
            open_topology(name, slices)
