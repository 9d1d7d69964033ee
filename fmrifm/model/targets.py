"""What is predicted, and the loss.

The loss is a quotient of two sums, over all predicted valid pixels of the *global* batch; the
sums travel, so that a shard, a micro-batch or an evaluation of many batches adds up exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmrifm.model.options import ModelOptions


class LossSums(NamedTuple):
    """Float32 scalars: the loss is error / pixels, that of predicting zero power / pixels."""

    error: jax.Array
    power: jax.Array
    pixels: jax.Array


def strided(tokens_BxQxP: jax.Array, options: ModelOptions) -> jax.Array:
    """(B, Q, P) -> (B, Q, P / stride): the frames 0, s, 2s... of each token."""
    shape = (*tokens_BxQxP.shape[:-1], options.t_patch, options.patch_dim)
    picked = tokens_BxQxP.reshape(shape)[..., :: options.t_pred_stride, :]
    return picked.reshape(*tokens_BxQxP.shape[:-1], options.target_dim)


def repeated(preds_BxQxP: jax.Array, options: ModelOptions) -> jax.Array:
    """Undoes `strided` for pictures: each predicted frame stands for the next ones too."""
    shape = (*preds_BxQxP.shape[:-1], -1, options.patch_dim)
    full = jnp.repeat(preds_BxQxP.reshape(shape), options.t_pred_stride, axis=-2)
    return full.reshape(*preds_BxQxP.shape[:-1], options.token_dim)


def loss_sums(
    preds_BxQxP: jax.Array, targets_BxQxP: jax.Array, weight_BxQxP: jax.Array
) -> LossSums:
    """Sums of squares over the pixels that `weight` (0 or 1) marks."""
    weight = weight_BxQxP.astype(jnp.float32)
    error = preds_BxQxP.astype(jnp.float32) - targets_BxQxP
    return LossSums(jnp.sum(weight * error**2), jnp.sum(weight * targets_BxQxP**2), jnp.sum(weight))
