"""What is predicted, and the loss.

The loss is a quotient of two sums, over all predicted valid pixels of the *global* batch; the
sums travel, so that a shard, a micro-batch or an evaluation of many batches adds up exactly.
Letters: B clips, M tokens, Q predicted tokens, V values of a token, W values predicted for it,
K principal components.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_tools.spaces.geometry import Geometry
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import patchify, unpatchify

# Axes of (B, slot, patch, channel, frame, pixel) over which targets are normalised.
NORM_AXES = {"global": (1, 2, 3, 4, 5), "frame": (2, 3, 4, 5), "patch": (3, 4, 5), "pca": (2, 5)}


class LossSums(NamedTuple):
    """Float32 scalars: the loss is error / pixels, that of predicting zero power / pixels."""

    error: jax.Array
    power: jax.Array
    pixels: jax.Array


class Targets(NamedTuple):
    """Normalised targets; values are `normed * scale + offset`."""

    normed_BxMxW: jax.Array
    scale_BxMxW: jax.Array
    offset_BxMxW: jax.Array


def strided(tokens_BxMxV: jax.Array, options: ModelOptions) -> jax.Array:
    """(B, M, V) -> (B, M, W): the frames 0, s, 2s... of each token."""
    lead = tokens_BxMxV.shape[:-1]
    frames = tokens_BxMxV.reshape(*lead, options.in_chans, options.t_patch, options.patch_dim)
    return frames[..., :: options.t_pred_stride, :].reshape(*lead, options.target_dim)


def repeated(preds_BxMxW: jax.Array, options: ModelOptions) -> jax.Array:
    """Undoes `strided` for pictures: each predicted frame stands for the next ones too."""
    lead = preds_BxMxW.shape[:-1]
    frames = preds_BxMxW.reshape(*lead, options.in_chans, -1, options.patch_dim)
    return jnp.repeat(frames, options.t_pred_stride, axis=-2).reshape(*lead, options.token_dim)


def normalize_targets(
    targets_BxMxW: jax.Array,
    valid_BxMxW: jax.Array,
    options: ModelOptions,
    geometry: Geometry,
    components_KxHxW: jax.Array | None,
) -> Targets:
    """Zero mean and unit population deviation over valid pixels, as `target_norm` says.

    `pca` first subtracts from each frame its projection on the components, an inner product over
    the whole frame (Luo & Constable 2025 call what is left a connectome caricature).

    Args:
      targets_BxMxW: strided targets.
      valid_BxMxW: bool, which of them are data.
      components_KxHxW: orthonormal images, only for `pca`.
    """
    if options.target_norm == "none":
        return Targets(targets_BxMxW, jnp.ones(()), jnp.zeros(()))
    o, shape = options, targets_BxMxW.shape
    grid = (shape[0], o.slots, geometry.n_patches, o.in_chans, -1, o.patch_dim)
    x, valid = targets_BxMxW.reshape(grid), valid_BxMxW.reshape(grid).astype(jnp.float32)
    common = jnp.zeros(())
    if o.target_norm == "pca":
        # Components are given, not learned; and too few for lower precision to be worth anything.
        components_KxNxP = geometry.to_patches(jax.lax.stop_gradient(components_KxHxW))
        with jax.default_matmul_precision("highest"):
            weights = jnp.einsum("bunctp,knp->buctk", x, components_KxNxP)
            common = jnp.einsum("buctk,knp->bunctp", weights, components_KxNxP)
    x = x - common
    axes = NORM_AXES[o.target_norm]
    count = jnp.maximum(jnp.sum(valid, axes, keepdims=True), 1)
    mean = jnp.sum(x * valid, axes, keepdims=True) / count
    centred = (x - mean) * valid
    scale = jnp.sqrt(jnp.sum(centred**2, axes, keepdims=True) / count + 1e-6)
    parts = (centred / scale, scale, mean + common)
    return Targets(*(jnp.broadcast_to(part, x.shape).reshape(shape) for part in parts))


def near(seen_BxMxV: jax.Array, pixels: int, geometry: Geometry, options: ModelOptions):
    """(B, M, V) bool: values at most `pixels` away (Chebyshev) from a seen one of their frame."""
    if not pixels:
        return seen_BxMxV
    images = unpatchify(seen_BxMxV.astype(jnp.int8), geometry, options)
    for axis in (3, 4):  # a square is a row of columns
        window, padding = [1] * 5, [(0, 0)] * 5
        window[axis], padding[axis] = 2 * pixels + 1, (pixels, pixels)
        images = jax.lax.reduce_window(images, jnp.int8(0), jax.lax.max, window, [1] * 5, padding)
    return patchify(images, geometry, options) > 0


def loss_sums(
    preds_BxQxW: jax.Array, targets_BxQxW: jax.Array, weight_BxQxW: jax.Array
) -> LossSums:
    """Sums of squares over the pixels that `weight` (0 or 1) marks."""
    weight = weight_BxQxW.astype(jnp.float32)
    error = preds_BxQxW.astype(jnp.float32) - targets_BxQxW
    return LossSums(jnp.sum(weight * error**2), jnp.sum(weight * targets_BxQxW**2), jnp.sum(weight))
