"""Which tokens are visible and which are predicted.

Pure functions of one key a clip, so that neither layout nor accumulation changes a mask. The
counts are fixed by geometry and options; only the choice is random. Letters: B clips, N cortical
patches, U = time slots, M = U * N tokens, L visible, Q predicted, K units of which some are drawn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmrifm.input.augment import uniform
from fmrifm.model.options import ModelOptions

# What a clip's key is folded with, so that each choice is independent of the others.
SQUARES, UNITS, QUERIES = range(3)


class Mask(NamedTuple):
    """Indices of tokens among the M tokens of a clip, each ascending, int32."""

    visible_BxL: jax.Array
    queries_BxQ: jax.Array


def clip_keys(key: jax.Array, words_Bx2: jax.Array) -> jax.Array:
    """One key a clip, from the two numbers that name it: (step, row) or (crc32, start)."""

    def fold(words_2):
        return jax.random.fold_in(jax.random.fold_in(key, words_2[0]), words_2[1])

    return jax.vmap(fold)(words_Bx2)


def draw_visible(
    keys_B: jax.Array, has_data_BxM: jax.Array, patch_index_N: np.ndarray, options: ModelOptions
) -> jax.Array:
    """Draws the visible tokens uniformly among those with data; (B, L) ascending.

    Empty tokens are taken only when data run out, so that no shape depends on the data. With
    `mask_patch_size`, whole squares are taken in random order, until the count is full; there it is
    squares that are equally likely, and patches of small squares at the edge a little more so.

    Args:
      keys_B: one key a clip.
      has_data_BxM: bool, tokens with a valid pixel.
      patch_index_N: places of the patches on the full grid.
    """
    o, batch, n = options, len(has_data_BxM), len(patch_index_N)
    squares_N = _squares(patch_index_N, o)
    if o.masking == "random":
        squares_M = np.concatenate([squares_N + i * n for i in range(o.slots)])
        order_BxM = _shuffled(keys_B, has_data_BxM, squares_M)
        return jnp.sort(order_BxM[:, : o.visible_count], axis=1)
    order_BxN = _shuffled(keys_B, has_data_BxM.reshape(batch, o.slots, n).any(1), squares_N)
    patches_BxK = jnp.sort(order_BxN[:, : o.visible_count], axis=1)
    offset_U = jnp.arange(o.slots, dtype=jnp.int32) * n
    return (offset_U[None, :, None] + patches_BxK[:, None, :]).reshape(batch, -1)


def draw_queries(
    keys_B: jax.Array, visible_BxL: jax.Array, predictable_BxM: jax.Array, options: ModelOptions
) -> jax.Array:
    """The tokens to predict among those that are not visible; (B, Q) ascending.

    All of them, or with `pred_mask_ratio` so many of those with a pixel to predict, drawn at
    random; others are taken only when these run out.

    Args:
      predictable_BxM: bool, tokens with a pixel to predict.
    """
    batch, tokens = predictable_BxM.shape
    hidden = tokens - visible_BxL.shape[1]
    # As numbers, so that one sort puts the visible last.
    rank_BxM = jnp.zeros((batch, tokens), jnp.float32)
    if hidden > options.query_limit:
        rank_BxM = uniform(keys_B, QUERIES, tokens) + jnp.where(predictable_BxM, 0.0, 1.0)
    rank_BxM = jnp.where(marked(visible_BxL, tokens), 3.0, rank_BxM)
    order_BxM = jnp.argsort(rank_BxM, axis=1, stable=True).astype(jnp.int32)
    return jnp.sort(order_BxM[:, : min(hidden, options.query_limit)], axis=1)


def marked(index_BxK: jax.Array, count: int) -> jax.Array:
    """(B, count) bool: the tokens that are among the indices; an index of `count` or more is none.

    Clip by clip, so that devices which hold different clips need not exchange indices.
    """
    return jax.vmap(lambda i: jnp.zeros(count, bool).at[i].set(True, mode="drop"))(index_BxK)


def _squares(patch_index_N: np.ndarray, options: ModelOptions) -> np.ndarray:
    """(N,) the square that each patch lies in, named by the first of its patches (an index < N)."""
    rows, columns = np.divmod(patch_index_N, options.grid[1])
    squares_N = rows // options.square * options.grid[1] + columns // options.square
    _, first, inverse_N = np.unique(squares_N, return_index=True, return_inverse=True)
    return first[inverse_N]


def _shuffled(keys_B, has_data_BxK, squares_K: np.ndarray) -> jax.Array:
    """(B, K) int32: a random order of K units square by square, those without data last."""
    count = has_data_BxK.shape[1]
    square_BxK = jnp.where(has_data_BxK, uniform(keys_B, SQUARES, count)[:, squares_K], 1.0)
    return jnp.lexsort((uniform(keys_B, UNITS, count), square_BxK), axis=1).astype(jnp.int32)
