"""Scaled dot-product attention: one function that every layer calls, in several forms.

All forms compute the same; they differ in memory and in where they run. `xla` is the readable one,
and keeps the scores of all queries and keys; the others never hold them. Letters: B clips, L
queries, S keys, H heads, K width of a head.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from data_tools.errors import InputError
from fmrifm.model.splash import splash_attention

SAVED = "attention"  # under this name, recomputation policies find what is to be kept
_BLOCK = 256  # queries whose scores `blocked` holds at once


def attention(
    q_BxLxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    key_valid_BxS: jax.Array,
    form: str = "xla",
) -> jax.Array:
    """softmax(q k' / sqrt(K)) v over the valid keys, the softmax in float32.

    Args:
      key_valid_BxS: bool; keys that are not valid count as absent. A clip without any is finite.
      form: of FORMS: `xla` on all platforms; `blocked` on all, a few queries at a time; `splash`
        on TPU, Pallas kernels of JAX; `cudnn` on NVIDIA, 16-bit only.

    Returns:
      (B, L, H, K) in the dtype of v.
    """
    return FORMS[form](q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS)


def choose_form(form: str, platform: str) -> str:
    """The form that `auto` stands for on a platform (cpu, gpu, tpu), or the one that is named.

    Raises:
      InputError: there is no such form, or not on that platform.
    """
    if form == "auto":
        return "splash" if platform == "tpu" else "xla"
    if form not in FORMS:
        raise InputError(f"attention={form!r} is unknown: choose auto, {', '.join(FORMS)}.")
    home = {"splash": "tpu", "cudnn": "gpu"}.get(form, platform)
    if home != platform:
        raise InputError(f"attention={form} runs on {home} only: choose auto, xla or blocked.")
    return form


def _xla(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    scale = q_BxLxHxK.shape[-1] ** -0.5
    scores_BxHxLxS = jnp.einsum(
        "blhk,bshk->bhls", q_BxLxHxK * scale, k_BxSxHxK, preferred_element_type=jnp.float32
    )
    # A finite floor, so that a clip without any valid key stays finite too.
    floor = jnp.finfo(jnp.float32).min
    scores_BxHxLxS = jnp.where(key_valid_BxS[:, None, None, :], scores_BxHxLxS, floor)
    weights_BxHxLxS = jax.nn.softmax(scores_BxHxLxS, axis=-1).astype(v_BxSxHxK.dtype)
    return checkpoint_name(jnp.einsum("bhls,bshk->blhk", weights_BxHxLxS, v_BxSxHxK), SAVED)


def _blocked(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    batch, length, *rest = q_BxLxHxK.shape
    count = -(-length // _BLOCK)
    padded = jnp.pad(q_BxLxHxK, [(0, 0), (0, count * _BLOCK - length), (0, 0), (0, 0)])
    blocks = jnp.moveaxis(padded.reshape(batch, count, _BLOCK, *rest), 1, 0)

    @jax.checkpoint  # else the backward pass would keep the scores of all blocks
    def block(q_BxlxHxK):
        return _xla(q_BxlxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS)

    out = jnp.moveaxis(jax.lax.map(block, blocks), 0, 1).reshape(batch, -1, *rest)[:, :length]
    return checkpoint_name(out, SAVED)


def _splash(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    return splash_attention(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS, SAVED)


def _cudnn(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS, implementation: str = "cudnn"):
    # cuDNN takes lengths of sequences without holding a mask of queries by keys; the order of keys
    # is of no matter, so the valid ones go first.
    order_BxS = jnp.argsort(~key_valid_BxS, axis=1, stable=True)[:, :, None, None]
    k_BxSxHxK, v_BxSxHxK = (
        jnp.take_along_axis(x, order_BxS, axis=1) for x in (k_BxSxHxK, v_BxSxHxK)
    )
    count_B = jnp.maximum(key_valid_BxS.sum(1, dtype=jnp.int32), 1)
    out = jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxSxHxK, v_BxSxHxK,
        query_seq_lengths=jnp.full_like(count_B, q_BxLxHxK.shape[1]),
        key_value_seq_lengths=count_B, implementation=implementation,
    )  # fmt: skip
    return checkpoint_name(out, SAVED)


FORMS: dict[str, Callable[..., jax.Array]] = {
    "xla": _xla,
    "blocked": _blocked,
    "splash": _splash,
    "cudnn": _cudnn,
}
