"""Heads: what is trained on frozen features. One head each, as pure functions; grid.py maps them.

Letters: B samples, L tokens, D width of the features, E inner width, H attention heads of W values
each, K outputs.
"""

import jax
import jax.numpy as jnp
import optax

HEADS = ("linear", "attn", "mlp")
HEAD_WIDTH = 64
INIT_STD = 0.02
_NORM_EPS = 1e-5
_TINY = 1e-12

Params = dict


def init_head(kind: str, key: jax.Array, width: int, n_out: int, inner: int = 0) -> Params:
    """Fresh float32 parameters of a head.

    Args:
      key: of the weights; biases are zero.
      width: D.
      n_out: K.
      inner: E of `attn` and `mlp`; 0 takes D, for `attn` rounded down to a multiple of 64.
    """
    keys = jax.random.split(key, 3)
    if kind == "linear":
        limit = (6 / (width + n_out)) ** 0.5  # Xavier
        kernel = jax.random.uniform(keys[0], (width, n_out), minval=-limit, maxval=limit)
        return {"out": {"kernel": kernel, "bias": jnp.zeros(n_out)}}

    def dense(key, n_in, n):
        return {"kernel": INIT_STD * jax.random.normal(key, (n_in, n)), "bias": jnp.zeros(n)}

    if kind == "attn":
        inner = max(HEAD_WIDTH, (inner or width) // HEAD_WIDTH * HEAD_WIDTH)
        return {
            "query": INIT_STD * jax.random.normal(keys[0], (inner,)),
            "kv": dense(keys[1], width, 2 * inner),
            "out": dense(keys[2], inner, n_out),
        }
    inner = inner or width
    return {
        "fc": dense(keys[0], width, inner),
        "norm": {"scale": jnp.ones(inner), "bias": jnp.zeros(inner)},
        "out": dense(keys[1], inner, n_out),
    }


def apply_head(
    kind: str,
    params: Params,
    x_BxLxD: jax.Array,
    keep_BxL: jax.Array,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """(B, K) outputs of a head.

    Args:
      x_BxLxD: float32 features; a vector is a sequence of one token.
      keep_BxL: bool, the tokens that count.
      dropout: share of hidden values of `mlp` that are dropped, where a key is given.
    """
    if kind == "linear":
        return _dense(params["out"], masked_mean(x_BxLxD, keep_BxL))
    if kind == "attn":
        return _attn(params, x_BxLxD, keep_BxL)
    h = jax.nn.relu(_dense(params["fc"], x_BxLxD))
    if key is not None and dropout:
        h = h * jax.random.bernoulli(key, 1 - dropout, h.shape) / (1 - dropout)
    mean, variance = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    h = (h - mean) * jax.lax.rsqrt(variance + _NORM_EPS)
    h = h * params["norm"]["scale"] + params["norm"]["bias"]
    # The mean over tokens goes through a linear map: first the mean, then the map, is the same.
    return _dense(params["out"], masked_mean(h, keep_BxL))


def losses(kind: str, out_BxK: jax.Array, target: jax.Array) -> jax.Array:
    """(B,) losses, of settings.LOSSES, of outputs against labels (B,) or targets (B, K)."""
    if kind == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(out_BxK, target)
    if kind == "mse":
        return ((out_BxK - target) ** 2).mean(-1)
    norms = jnp.linalg.norm(out_BxK + _TINY, axis=-1) * jnp.linalg.norm(target, axis=-1)
    return 1 - (out_BxK * target).sum(-1) / jnp.maximum(norms, _TINY)


def masked_mean(x_BxLxD: jax.Array, keep_BxL: jax.Array) -> jax.Array:
    """(B, D) mean over the tokens that count, zero where there are none."""
    count_Bx1 = jnp.maximum(keep_BxL.sum(1, keepdims=True), 1)
    return jnp.einsum("bld,bl->bd", x_BxLxD, keep_BxL / count_Bx1)


def _attn(params: Params, x_BxLxD: jax.Array, keep_BxL: jax.Array) -> jax.Array:
    """One learned query attends to all tokens.

    With one query no token needs a projection. Scores are q . (Wk x + bk) = (Wk' q) . x + a number
    that softmax ignores, so the key projection folds into the query; and what is pooled is linear
    in the tokens, so the value projection follows the pooling.
    """
    query, kernel, bias = params["query"], params["kv"]["kernel"], params["kv"]["bias"]
    inner, width = query.shape[0], x_BxLxD.shape[-1]
    key_DxHxW = kernel[:, :inner].reshape(width, -1, HEAD_WIDTH)
    value_DxHxW = kernel[:, inner:].reshape(width, -1, HEAD_WIDTH)
    folded_DxH = jnp.einsum("dhw,hw->dh", key_DxHxW, query.reshape(-1, HEAD_WIDTH))
    scores_BxLxH = jnp.einsum("bld,dh->blh", x_BxLxD, folded_DxH * HEAD_WIDTH**-0.5)
    scores_BxLxH = jnp.where(keep_BxL[:, :, None], scores_BxLxH, -1e30)
    pooled_BxHxD = jnp.einsum("blh,bld->bhd", jax.nn.softmax(scores_BxLxH, axis=1), x_BxLxD)
    out_BxHxW = jnp.einsum("bhd,dhw->bhw", pooled_BxHxD, value_DxHxW)
    return _dense(params["out"], out_BxHxW.reshape(-1, inner) + bias[inner:])


def _dense(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]
