"""Tokens: from images and back, and their positions.

Position tables cover the full token grid and are gathered by place. A token's place is its index
t * (rows * columns) + patch on the *full* grid, whatever the mask, so that weights fit any mask on
the same grid. Letters: B clips, L or M tokens, V values of a token, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_tools.spaces.geometry import Geometry
from fmrifm.model.options import ModelOptions

# The reference truncates at +-2, a hundred standard deviations: a plain normal.
token_init = nn.initializers.normal(0.02)


def partitioned(init):
    """Axis names for a (1, tokens, width) parameter."""
    return nn.with_logical_partitioning(init, (None, None, "embed"))


class Positions(nn.Module):
    """The position of each token, added to its embedding.

    Attributes:
      options: their kind, and the full token grid.
      width: channels D.
    """

    options: ModelOptions
    width: int

    @nn.compact
    def __call__(self, place_BxL: jax.Array) -> jax.Array:
        """(B, L) int places -> (B, L, D) float32."""
        o, patches = self.options, self.options.grid_size
        if o.pos_embed == "sep":
            init = partitioned(token_init)
            space = self.param("weight_spatial", init, (1, patches, self.width))
            time = self.param("weight_temporal", init, (o.slots, 1, self.width))
            return space[0, place_BxL % patches] + time[place_BxL // patches, 0]
        if o.pos_embed == "abs":
            init = nn.with_logical_partitioning(token_init, (None, "embed"))
            return self.param("weight", init, (o.slots * patches, self.width))[place_BxL]
        return jnp.asarray(sincos_table(o, self.width))[place_BxL]


def sincos_table(options: ModelOptions, width: int) -> np.ndarray:
    """(slots * rows * columns, width) float32: sines and cosines of each axis, concatenated.

    Clips give each of t, h, w 2 * ceil(width / 6) channels, cut to `width` at the end; 2-D images
    give half of the channels to h and half to w.
    """
    if options.num_frames is None:
        axes, channels = [np.arange(n) for n in options.grid], width // 2
    else:
        axes, channels = [np.arange(n) for n in (options.slots, *options.grid)], 2 * -(-width // 6)
    frequency = 1 / 10000 ** (np.arange(channels // 2) / (channels / 2))
    angles = [position.reshape(-1, 1) * frequency for position in np.meshgrid(*axes, indexing="ij")]
    parts = [np.concatenate([np.sin(angle), np.cos(angle)], -1) for angle in angles]
    return np.concatenate(parts, -1)[:, :width].astype(np.float32)


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
