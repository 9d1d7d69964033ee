"""Which tokens are visible and which are predicted.

Pure functions of one key a clip, so that neither layout nor accumulation changes a mask. The
counts are fixed by geometry and options; only the choice is random. Letters: B clips, N cortical
patches, U = time slots, M = U * N tokens, L visible, Q predicted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmrifm.model.options import ModelOptions


class Mask(NamedTuple):
    """Indices of tokens among the M tokens of a clip, each ascending."""

    visible_BxL: jax.Array
    queries_BxQ: jax.Array


def clip_keys(key: jax.Array, words_Bx2: jax.Array) -> jax.Array:
    """One key a clip, from the two numbers that name it: (step, row) or (crc32, start)."""

    def fold(words_2):
        return jax.random.fold_in(jax.random.fold_in(key, words_2[0]), words_2[1])

    return jax.vmap(fold)(words_Bx2)


def draw_mask(keys_B: jax.Array, has_data_BxM: jax.Array, options: ModelOptions) -> Mask:
    """Draws the visible tokens uniformly among those with data.

    Empty tokens are taken only when data run out, so that no shape depends on the data.

    Args:
      keys_B: one key a clip.
      has_data_BxM: bool, tokens with a valid pixel.
    """
    batch, tokens = has_data_BxM.shape
    slots = options.slots
    if options.masking == "random":
        return _split(_shuffled(keys_B, has_data_BxM), options.visible_count)
    has_data_BxUxN = has_data_BxM.reshape(batch, slots, tokens // slots)
    order_BxN = _shuffled(keys_B, has_data_BxUxN.any(1))
    patches = _split(order_BxN, options.visible_count)
    offset_U = jnp.arange(slots, dtype=jnp.int32) * (tokens // slots)

    def all_slots(index_BxK):
        return (offset_U[None, :, None] + index_BxK[:, None, :]).reshape(batch, -1)

    return Mask(*map(all_slots, patches))


def _shuffled(keys_B, has_data_BxK):
    """(B, K) int32: a random order of K units, those without data last."""
    units = has_data_BxK.shape[1]
    noise_BxK = jax.vmap(lambda key: jax.random.uniform(key, (units,)))(keys_B)
    return jnp.argsort(jnp.where(has_data_BxK, noise_BxK, noise_BxK + 1), axis=1).astype(jnp.int32)


def _split(order_BxK, count: int) -> Mask:
    return Mask(jnp.sort(order_BxK[:, :count], axis=1), jnp.sort(order_BxK[:, count:], axis=1))
