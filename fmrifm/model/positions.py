"""Position tables over the full token grid, gathered by place.

A token's place is its index t * (rows * columns) + patch on the *full* grid, whatever the mask:
so weights fit any mask on the same grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fmrifm.model.options import ModelOptions

# The reference truncates at +-2, a hundred standard deviations: a plain normal.
token_init = nn.initializers.normal(0.02)


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
            init = nn.with_logical_partitioning(token_init, (None, None, "embed"))
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
