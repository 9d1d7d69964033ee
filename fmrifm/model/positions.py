"""Position tables over the full token grid, gathered by place.

A token's place is its index t * (rows * columns) + patch on the *full* grid, whatever the mask:
so weights fit any mask on the same grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

# The reference truncates at +-2, a hundred standard deviations: a plain normal.
token_init = nn.initializers.normal(0.02)


class Positions(nn.Module):
    """The position of each token, added to its embedding.

    Attributes:
      kind: `sep` learned space + time, `abs` learned, `sincos` fixed.
      slots, grid: shape of the full token grid, time slots x (rows, columns).
      width: channels D.
    """

    kind: str
    slots: int
    grid: tuple[int, int]
    width: int

    @nn.compact
    def __call__(self, place_BxL: jax.Array) -> jax.Array:
        """(B, L) int places -> (B, L, D) float32."""
        patches = self.grid[0] * self.grid[1]
        if self.kind == "sep":
            init = nn.with_logical_partitioning(token_init, (None, None, "embed"))
            space = self.param("weight_spatial", init, (1, patches, self.width))
            time = self.param("weight_temporal", init, (self.slots, 1, self.width))
            return space[0, place_BxL % patches] + time[place_BxL // patches, 0]
        if self.kind == "abs":
            init = nn.with_logical_partitioning(token_init, (None, "embed"))
            return self.param("weight", init, (self.slots * patches, self.width))[place_BxL]
        return jnp.asarray(sincos_table(self.slots, self.grid, self.width))[place_BxL]


def sincos_table(slots: int, grid: tuple[int, int], width: int) -> np.ndarray:
    """(slots * rows * columns, width) float32: sines and cosines of each axis, concatenated.

    Clips give each of t, h, w 2 * ceil(width / 6) channels, cut to `width` at the end; images
    (one slot) give half of the channels to h and half to w.
    """
    if slots == 1:
        axes, channels = [np.arange(n) for n in grid], width // 2
    else:
        axes, channels = [np.arange(n) for n in (slots, *grid)], 2 * -(-width // 6)
    frequency = 1 / 10000 ** (np.arange(channels // 2) / (channels / 2))
    angles = [position.reshape(-1, 1) * frequency for position in np.meshgrid(*axes, indexing="ij")]
    parts = [np.concatenate([np.sin(angle), np.cos(angle)], -1) for angle in angles]
    return np.concatenate(parts, -1)[:, :width].astype(np.float32)
