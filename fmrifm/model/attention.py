"""Scaled dot-product attention: one function that every layer calls.

Letters: B clips, L queries, S keys, H heads, K width of a head.
"""

import jax
import jax.numpy as jnp


def attention(
    q_BxLxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    key_valid_BxS: jax.Array,
) -> jax.Array:
    """softmax(q k' / sqrt(K)) v over the valid keys, the softmax in float32.

    Args:
      key_valid_BxS: bool; keys that are not valid count as absent.

    Returns:
      (B, L, H, K) in the dtype of v.
    """
    scale = q_BxLxHxK.shape[-1] ** -0.5
    scores_BxHxLxS = jnp.einsum(
        "blhk,bshk->bhls", q_BxLxHxK * scale, k_BxSxHxK, preferred_element_type=jnp.float32
    )
    # A finite floor, so that a clip without any valid key stays finite too.
    floor = jnp.finfo(jnp.float32).min
    scores_BxHxLxS = jnp.where(key_valid_BxS[:, None, None, :], scores_BxHxLxS, floor)
    weights_BxHxLxS = jax.nn.softmax(scores_BxHxLxS, axis=-1).astype(v_BxSxHxK.dtype)
    return jnp.einsum("bhls,bshk->blhk", weights_BxHxLxS, v_BxSxHxK)
