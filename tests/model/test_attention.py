"""Attention: all of its forms say the same, forwards and backwards, whatever keys are missing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from data_tools.errors import InputError
from fmrifm.model.attention import FORMS, _block, _cudnn, choose_form, splash_attention
from fmrifm.trainer.mesh import RULES, make_mesh

# What a CPU can run of each: the kernels' Python, and the same call without the library.
RUNNABLE = {
    "xla": FORMS["xla"],
    "heads": FORMS["heads"],
    "blocked": FORMS["blocked"],
    "splash": functools.partial(splash_attention, interpret=True),
    "cudnn": functools.partial(_cudnn, implementation="xla"),
}


def arrays(length, keys, heads=2, width=32, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, length, heads, width), *[(batch, keys, heads, width)] * 2]
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q, k, v, jnp.asarray(rng.random((batch, keys)) < 0.7)


def by_hand(q, k, v, valid):
    out = np.zeros(q.shape)
    for b, length, h in np.ndindex(q.shape[:3]):
        keys = np.flatnonzero(valid[b])
        scores = np.asarray(k, float)[b, keys, h] @ np.asarray(q, float)[b, length, h]
        weights = np.exp(scores / np.sqrt(q.shape[-1]))
        out[b, length, h] = weights / weights.sum() @ np.asarray(v)[b, keys, h]
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length, keys", [(7, 7), (300, 150)])
def test_forms_are_one_function(form, length, keys):
    q, k, v, valid = arrays(length, keys)

    def loss(attend, q, k, v):
        return (attend(q, k, v, valid) * jnp.cos(jnp.arange(q.size).reshape(q.shape))).sum()

    found = RUNNABLE[form](q, k, v, valid)
    np.testing.assert_allclose(found, by_hand(q, k, v, valid), atol=2e-6)
    grads = jax.grad(functools.partial(loss, RUNNABLE[form]), (0, 1, 2))(q, k, v)
    expected = jax.grad(functools.partial(loss, FORMS["xla"]), (0, 1, 2))(q, k, v)
    for grad, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, other, atol=1e-5)
        assert np.abs(other).max() > 0.01
    assert not np.asarray(grads[1])[~np.asarray(valid)].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_clip_without_data_stays_finite(form):
    q, k, v, valid = arrays(5, 9)
    valid = valid.at[0].set(False)

    def loss(q, k, v):
        return (RUNNABLE[form](q, k, v, valid) ** 2).sum()

    value, grads = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
    assert all(np.isfinite(x).all() for x in (value, *grads))


def test_memory_of_blocks_does_not_grow_with_queries_times_keys():
    def temporaries(form, length):
        q, k, v, valid = arrays(length, length, heads=4, batch=1)
        grad = jax.grad(lambda q, k, v: FORMS[form](q, k, v, valid).sum(), (0, 1, 2))
        return jax.jit(grad).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    scores = 4 * 4096**2 * 4  # of 4 heads, float32
    assert temporaries("xla", 4096) >= scores > 3 * temporaries("blocked", 4096)


def test_forms_are_chosen_by_platform():
    assert [choose_form("auto", x) for x in ("cpu", "gpu", "tpu")] == ["heads", "xla", "splash"]
    assert choose_form("blocked", "tpu") == "blocked"
    for form, message in {"splash": "runs on tpu only", "flash": "choose auto"}.items():
        with pytest.raises(InputError, match=message):
            choose_form(form, "cpu")


def test_sequences_are_cut_into_whole_blocks():
    assert [_block(n) for n in (1, 128, 197, 512, 513, 1457)] == [128, 128, 256, 512, 384, 512]


@pytest.mark.parametrize("form, length, keys", [("splash", 20, 30), ("heads", 200, 200)])
def test_forms_on_a_mesh(form, length, keys):
    """Each device takes its clips and heads; nothing is lost between them."""
    mesh = make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    arguments = arrays(length, keys, heads=4, batch=4)

    def loss(attend, q, k, v, valid):
        return (attend(q, k, v, valid) ** 2).sum()

    expected = jax.grad(functools.partial(loss, FORMS["xla"]), (0, 1, 2))(*arguments)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        grad = jax.jit(jax.grad(functools.partial(loss, RUNNABLE[form]), (0, 1, 2)))
        found = grad(*arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
