"""The step: the same numbers on every layout, and nothing lost to a bad batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.model.files import to_reference
from fmrifm.model.targets import LossSums
from fmrifm.trainer.mesh import make_mesh, sharded_share, to_devices
from fmrifm.trainer.optimizer import make_optimizer, make_schedule
from fmrifm.trainer.program import Program
from fmrifm.trainer.step import init_state, make_update

STEPS = 5


def run_steps(config, devices, spoil=None):
    """Five steps; returns losses, final host state, and the program."""
    data = open_data(config)
    program = Program(config, data.geometry, devices)
    batches = program.train_batches(data)
    losses = []
    with program.scope():
        state = program.initial_state(config.seed)
        for step in range(STEPS):
            batch = batches[step]
            if step == spoil:
                batch["bold"][0, 3, 0, 5] = np.nan
            state, metrics = program.train_step(state, to_devices(batch, program.batch_sharding))
            losses.append(metrics)
    return jax.device_get(losses), jax.device_get(state), program


@pytest.fixture(scope="module")
def one_device(toy_config):
    """Five steps on one device, the truth that every layout must meet."""
    return run_steps(toy_config(), jax.devices()[:1])


def assert_same_training(found, expected):
    for ours, theirs in zip(found[0], expected[0], strict=True):
        for name in ("loss", "grad_norm"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5)
    # Compared against the size of an update. The gradient of a key bias is zero in mathematics
    # (softmax ignores a shift): Adam turns its rounding noise into full updates.
    scale = sum(float(metrics["lr"]) for metrics in expected[0])
    options = expected[2].options
    theirs = to_reference(expected[1].params, options)
    for name, ours in to_reference(found[1].params, options).items():
        if not name.endswith("attn.k.bias"):
            assert np.abs(ours - theirs[name]).max() < 1e-2 * scale, name


@pytest.mark.parametrize("layout", [(8, 1, 1), (1, 8, 1), (2, 1, 4), (2, 2, 2)])
def test_layouts_train_the_same(toy_config, one_device, layout):
    data, fsdp, tensor = layout
    config = toy_config(mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor)
    found = run_steps(config, jax.devices())
    assert_same_training(found, one_device)
    program = found[2]
    assert program.train_step._cache_size() == 1  # one compile
    split = sharded_share(program.shapes, program.shardings)
    assert split > 0.3 if fsdp * tensor > 1 else split == 0


def test_accumulation_changes_nothing(toy_config, one_device):
    config = toy_config(optim__accumulation=4, mesh__data=2, mesh__fsdp=1)
    assert_same_training(run_steps(config, jax.devices()[:2]), one_device)


RANDOM = {
    "augment__tr_scale": 0.8, "augment__crop_scale": 0.5, "augment__gray_jitter": 0.2,
    "model__gauss_sigma": 0.3, "model__drop_path_rate": 0.3, "model__pred_mask_ratio": 0.6,
    "model__pred_edge_pad": 1, "model__mask_patch_size": 16, "model__target_norm": "frame",
}  # fmt: skip


def test_what_is_random_belongs_to_the_clip(toy_config):
    """Noise, dropped branches, crops and sparse queries are the same in any layout and parts."""
    alone = run_steps(toy_config(**RANDOM), jax.devices()[:1])
    layout = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2, "optim__accumulation": 2}
    assert_same_training(run_steps(toy_config(**layout, **RANDOM), jax.devices()), alone)


def test_recomputation_changes_nothing(toy_config, one_device):
    config = toy_config(model__remat="dots")
    assert_same_training(run_steps(config, jax.devices()[:1]), one_device)


def test_repeats_are_bitwise_equal(toy_config, one_device):
    again = run_steps(toy_config(), jax.devices()[:1])
    jax.tree.map(np.testing.assert_array_equal, again[1], one_device[1])


def test_bad_batch_changes_nothing_but_the_mark(toy_config, one_device):
    before = run_steps(toy_config(), jax.devices()[:1], spoil=STEPS - 1)
    losses, state, _ = before
    assert not np.isfinite(losses[-1]["loss"]) and np.isfinite(losses[-2]["loss"])
    assert state.first_bad_step == STEPS - 1 and one_device[1].first_bad_step == -1
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert np.isfinite(leaf).all()
    early = run_steps(toy_config(), jax.devices()[:1], spoil=0)[1]
    assert early.first_bad_step == 0  # later good steps do not clear it


@pytest.mark.parametrize(
    "changes",
    [{}, {"b2": 1.0}, {"b1": 1.0}, {"lr": np.inf}, {"lr": np.nan}, {"weight_decay": np.inf}],
)
def test_parameters_that_are_not_finite_are_not_kept(changes):
    """Gradient and loss are finite here."""
    optim = {"name": "adamw", "b1": 0.9, "b2": 0.95, "weight_decay": 0.05, "lr": 1e-3} | changes
    tx, schedule = make_optimizer(optim), make_schedule(optim["lr"], 1, 10)
    one = jnp.float32(1)
    state = init_state({"w": {"kernel": jnp.ones((2, 2))}}, tx)
    update = jax.jit(make_update(tx, schedule, 1.0))
    for _ in range(3):
        state, metrics = update(state, {"w": {"kernel": jnp.ones((2, 2))}}, LossSums(one, one, one))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.opt_state))]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert (metrics["first_bad_step"] >= 0) == bool(changes)


def test_bfloat16_stays_close(toy_config, one_device):
    losses = run_steps(toy_config(compute_dtype="bfloat16"), jax.devices()[:1])[0]
    for ours, theirs in zip(losses, one_device[0], strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=0.02)


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({"mesh__data": 3}, "8 devices"),
        ({"mesh__data": -1, "mesh__fsdp": -1}, "one may be -1"),
        ({"batch_size": 12}, "multiple of 8"),
        ({"batch_size": 8, "optim__accumulation": 2}, "multiple of 16"),
        ({"mesh__tensor": 8}, "num_heads"),
        ({"model__size": "giant"}, "giant"),
        ({"model__t_patch": 5}, "t_patch"),
        ({"model__mask_ratio": 0.0}, "mask_ratio"),
        ({"model__mask_ratio": 1.0}, "mask_ratio"),
        ({"model__decoding": "self"}, "decoding"),
        ({"model__patch": 3}, "model.patch=3"),
        ({"compute_dtype": "float8"}, "float8"),
        ({"optim__lr": 1e-3, "optim__base_lr": 1e-3}, "only one"),
        ({"optim__name": "lion"}, "adamw, muon"),
        ({"optim__lr_scaling": "cubic"}, "linear, sqrt"),
        ({"total_steps": 0}, "total_steps"),
        ({"keep_best": "nobody"}, "nobody"),
    ],
)
def test_senseless_configs_are_refused_in_a_sentence(toy_config, overrides, words):
    config = toy_config(**overrides)
    with pytest.raises(InputError) as error:
        Program(config, open_data(config).geometry)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_mesh_fills_what_is_left():
    assert make_mesh({"data": -1, "fsdp": 2, "tensor": 2}).shape["data"] == 2
