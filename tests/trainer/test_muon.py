"""Muon: which parameters it takes, what it makes of them, and that it trains as any optimizer."""

import copy
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.model.mae import param_shapes
from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.runs.config import check_unchanged, config_dict
from fmrifm.trainer.loop import train
from fmrifm.trainer.optimizer import (
    COEFFICIENTS,
    ITERATIONS,
    choose_directions,
    make_optimizer,
    peak_learning_rate,
)
from fmrifm.trainer.program import Program
from fmrifm.trainer.stopping import StopSignal
from tests.conftest import load_config
from tests.trainer.commands import metrics, weights
from tests.trainer.test_shardings import LAYOUTS, make_program
from tests.trainer.test_step import assert_same_training, run_steps


def make_muon_config(toy_config, **overrides):
    """Kernels large enough to be split, of as many layers as no number of devices divides."""
    wide = {"model__embed_dim": 128, "model__depth": 3, "optim__name": "muon"}
    return toy_config(**wide | overrides)


@pytest.fixture(scope="module")
def shapes(toy_config):
    config = make_muon_config(toy_config)
    return param_shapes(Program(config, open_data(config).geometry, jax.devices()[:1]).options)


def test_which_parameters_it_takes(shapes):
    chosen = traverse_util.flatten_dict(choose_directions(shapes), sep="/")
    kernels = "attn/k attn/proj attn/q attn/v mlp/fc1 mlp/fc2".split()
    expected = {
        f"{part}/blocks/layers/{kernel}/kernel"
        for part in ("encoder", "decoder")
        for kernel in kernels
    }
    assert {name for name, way in chosen.items() if way == "muon"} == expected


def reference(matrix_IxO: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The update of one matrix, and its singular values where they are not small; in float64."""
    u, before, vt = np.linalg.svd(np.float64(matrix_IxO), full_matrices=False)
    before /= np.sqrt(np.sum(before**2))
    s, (a, b, c) = before, COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    return 0.2 * np.sqrt(max(matrix_IxO.shape)) * (u * s) @ vt, s[before > 0.002]


def test_each_layer_of_each_kernel_is_one_matrix(shapes):
    """Directions are orthogonal, as large as Adam's, and do not see the size of a gradient."""
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 1e-4, shapes)
    optim = {"name": "muon", "b1": 0.9, "b2": 0.95, "weight_decay": 0.0}
    tx = make_optimizer(optim)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
    grads, updates = (traverse_util.flatten_dict(tree, sep="/") for tree in (grads, updates))
    kernels = [name for name, grad in grads.items() if grad.ndim == 3 and "/layers/" in name]
    assert len(kernels) == 12
    for name in kernels:
        for grad, update in zip(grads[name], updates[name], strict=True):
            expected, singular = reference(grad)
            np.testing.assert_allclose(update, expected, atol=2e-3 * np.abs(expected).max())
            assert singular.min() > 0.68 and singular.max() < 1.21
            assert 0.15 < np.sqrt(np.mean(np.square(update))) < 0.23
    adam = updates["encoder/patch_embed/kernel"]
    assert np.median(np.abs(adam)) > 0.999  # of a first step


def test_layouts_train_the_same(toy_config):
    alone = run_steps(make_muon_config(toy_config), jax.devices()[:1])
    layout = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    found = run_steps(make_muon_config(toy_config, **layout), jax.devices())
    assert_same_training(found, alone)


def test_a_bad_batch_changes_nothing(toy_config):
    state = run_steps(make_muon_config(toy_config), jax.devices()[:1], spoil=2)[1]
    assert state.first_bad_step == 2
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_state_lies_as_the_parameters(layout):
    program = make_program(layout, name="muon")
    spec = {
        path: sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(program.shardings.params)
    }
    found = {path: [] for path in spec}
    for path, sharding in jax.tree_util.tree_leaves_with_path(program.shardings.opt_state):
        for name in spec:  # the end of the path of its moments
            if path[-len(name) :] == name:
                found[name].append(sharding.spec)
    ways = jax.tree_util.tree_leaves_with_path(choose_directions(program.shapes.params))
    assert found == {path: [spec[path]] * (1 if way == "muon" else 2) for path, way in ways}


@pytest.mark.usefixtures("one_device")
def test_resumes_and_starts_warm(toy_config, tmp_path, monkeypatch):
    config = make_muon_config(toy_config, log_every=1)
    assert train(config, tmp_path / "calm") == 0
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "at", lambda _, step: step == 3)
        assert train(config, tmp_path / "stopped") == STOPPED_EXIT_CODE
    shutil.copytree(tmp_path / "stopped", tmp_path / "other")
    assert train(config, tmp_path / "stopped") == 0
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "calm")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "calm")

    with pytest.raises(InputError, match="optim.name=muon.*--config.init_from"):
        adamw = make_muon_config(toy_config, optim__name="adamw")
        train(adamw, tmp_path / "other", allow_config_change=True)
    config.init_from = str(tmp_path / "other")
    assert train(config, tmp_path / "warm") == 0


def test_runs_that_had_no_such_fields_go_on(toy_config):
    """By their defaults, which change no number; other new fields are refused."""
    now = {"config": config_dict(toy_config()), "stores": {}}
    before = copy.deepcopy(now)
    del before["config"]["optim"]["name"], before["config"]["optim"]["lr_scaling"]
    check_unchanged(before, now, allow=False)
    with pytest.raises(InputError, match=r"optim.lr_scaling \(linear -> sqrt\)"):
        changed = {**now, "config": config_dict(toy_config(optim__lr_scaling="sqrt"))}
        check_unchanged(before, changed, allow=False)
    del before["config"]["model"]["masking"]
    with pytest.raises(InputError, match="no model.masking"):
        check_unchanged(before, now, allow=False)


def test_rates_of_large_batches():
    optim = load_config().optim
    assert peak_learning_rate(optim, 32) == 1.25e-4  # as published
    assert peak_learning_rate(optim, 4096) == 1.6e-2
    optim.lr_scaling = "sqrt"
    assert peak_learning_rate(optim, 256) == 1e-3
    assert peak_learning_rate(optim, 1024) == 2e-3
    optim.lr = 5e-4
    assert peak_learning_rate(optim, 1024) == 5e-4


def test_the_recipe_of_large_batches():
    usual, large = load_config(), load_config(arg="vit_l,large_batch")
    assert large.model.size == "large"
    clips = [config.batch_size * config.total_steps for config in (usual, large)]
    assert clips[1] == pytest.approx(clips[0], rel=1e-3)
    assert large.optim.warmup_steps == large.total_steps // 20
    # The rule passes through the published rate at the published batch.
    assert peak_learning_rate(large.optim, 32) == pytest.approx(1.25e-4, rel=2e-3)
    assert peak_learning_rate(large.optim, 4096) == pytest.approx(1.4e-3, rel=2e-2)
    assert load_config(arg="large_batch,runlocal").batch_size == 8
