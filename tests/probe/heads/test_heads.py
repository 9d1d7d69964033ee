"""Heads against the reference's numbers, and against the long way of writing them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmrifm.probe.heads.heads import HEADS, apply_head, init_head


def dense(params, name):
    return {"kernel": params[f"{name}.weight"].T, "bias": params[f"{name}.bias"]}


def as_ours(kind, p):
    if kind == "linear":
        return {"out": dense(p, "linear")}
    if kind == "attn":
        return {"query": p["query_token"], "kv": dense(p, "kv"), "out": dense(p, "linear")}
    norm = {"scale": p["norm.weight"], "bias": p["norm.bias"]}
    return {"fc": dense(p, "fc1"), "norm": norm, "out": dense(p, "fc2")}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_agree_with_the_reference(kind, golden):
    case, prefix = golden("utils"), f"probe/{kind}/param/"
    params = {k.removeprefix(prefix): case[k] for k in case if k.startswith(prefix)}
    x, out = case["probe/x"], case[f"probe/{kind}/out"]
    found = apply_head(kind, as_ours(kind, params), x, np.ones(x.shape[:2], bool))
    np.testing.assert_allclose(found, out, atol=1e-5 * np.abs(out).max())


def attend_at_length(params, x, keep):
    """The same head with a key and a value for every token."""
    kv = x @ params["kv"]["kernel"] + params["kv"]["bias"]
    inner = params["query"].shape[0]
    k, v = (part.reshape(*x.shape[:2], -1, 64) for part in (kv[..., :inner], kv[..., inner:]))
    scores = jnp.einsum("hw,blhw->bhl", params["query"].reshape(-1, 64), k) / 8
    weights = jax.nn.softmax(jnp.where(keep[:, None], scores, -jnp.inf), -1)
    pooled = jnp.einsum("bhl,blhw->bhw", weights, v).reshape(len(x), -1)
    return pooled @ params["out"]["kernel"] + params["out"]["bias"]


def test_folding_the_projections_changes_no_output_and_no_gradient():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 20, 128)).astype(np.float32)
    keep = rng.random((6, 20)) < 0.7
    params = init_head("attn", jax.random.key(0), 128, 4)
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)

    def loss(attend):
        return lambda p: (attend(p, x, keep) ** 2).mean()

    ours, grads = jax.value_and_grad(loss(lambda p, x, k: apply_head("attn", p, x, k)))(params)
    other, expected = jax.value_and_grad(loss(attend_at_length))(params)
    assert float(ours) == pytest.approx(float(other), rel=1e-5)
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("kind", HEADS)
def test_tokens_that_do_not_count_change_nothing(kind):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 8, 64)).astype(np.float32)
    keep = np.arange(8) < np.array([[8], [5], [1]])
    params = init_head(kind, jax.random.key(1), 64, 3)
    found = apply_head(kind, params, np.where(keep[..., None], x, 1e3), keep)
    np.testing.assert_allclose(found, apply_head(kind, params, x, keep), rtol=2e-5, atol=1e-6)
    short = apply_head(kind, params, x[1:2, :5], keep[1:2, :5])
    np.testing.assert_allclose(found[1:2], short, rtol=2e-4, atol=1e-6)


def test_dropout_drops_only_with_a_key():
    x, keep = np.ones((2, 3, 64), np.float32), np.ones((2, 3), bool)
    params = init_head("mlp", jax.random.key(0), 64, 2)
    still = apply_head("mlp", params, x, keep, 0.5)
    moved = apply_head("mlp", params, x, keep, 0.5, jax.random.key(3))
    np.testing.assert_array_equal(still, apply_head("mlp", params, x, keep))
    assert np.abs(moved - still).max() > 1e-4
