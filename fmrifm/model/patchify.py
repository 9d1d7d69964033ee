"""Images to tokens of a geometry's patches and back, on the device.

Letters: B clips, C channels, T frames, M = slots * patches tokens in the order (slot, patch),
V = C * t_patch * pixels values of a token in the order (channel, frame, pixel).
"""

import jax
import jax.numpy as jnp

from data_tools.geometry import Geometry
from fmrifm.model.options import ModelOptions


def patchify(images_BxCxTxHxW: jax.Array, geometry: Geometry, options: ModelOptions) -> jax.Array:
    """(B, C, T, H, W) -> (B, M, V)."""
    batch, chans = images_BxCxTxHxW.shape[:2]
    (rows, columns), (p, q), slots = geometry.grid, geometry.patch_shape, options.slots
    x = images_BxCxTxHxW.reshape(batch, chans, slots, -1, rows, p, columns, q)
    x = x.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, slots, rows * columns, -1)
    x = x[:, :, geometry.patch_index]
    return x.reshape(batch, slots * geometry.n_patches, -1)


def unpatchify(tokens_BxMxV: jax.Array, geometry: Geometry, options: ModelOptions) -> jax.Array:
    """(B, M, V) -> (B, C, T, H, W), zero where the geometry has no patch.

    Tokens of fewer frames (`strided`) give images of fewer frames.
    """
    batch, chans, slots = len(tokens_BxMxV), options.in_chans, options.slots
    (rows, columns), (p, q) = geometry.grid, geometry.patch_shape
    patches = tokens_BxMxV.reshape(batch, slots, geometry.n_patches, -1)
    full = jnp.zeros((batch, slots, rows * columns, patches.shape[-1]), tokens_BxMxV.dtype)
    full = full.at[:, :, geometry.patch_index].set(patches)
    x = full.reshape(batch, slots, rows, columns, chans, -1, p, q)
    x = x.transpose(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(batch, chans, -1, rows * p, columns * q)
