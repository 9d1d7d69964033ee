"""From stored float16 patches to the model's tokens, on the device inside the jitted step.

Letters: B clips, T frames, N stored patches, P pixels of a stored patch, n patches of the model,
p pixels of a model patch, M = slots * n tokens, V = values of a token.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.errors import InputError
from data_tools.geometry import Geometry

CLAMP = 3.0
NORMALIZATIONS = ("frame", "global", "none")


class Tokens(NamedTuple):
    """A batch of clips as the model takes it."""

    values_BxMxV: jax.Array  # float32, normalised, zero where there is no data
    valid_BxMxV: jax.Array  # bool, which values are data
    has_data_BxM: jax.Array  # bool, tokens with any


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """The fixed part of the way from a store's patches to tokens.

    Attributes:
      stored: geometry of the batch.
      t_patch: frames of a token.
      patch: side of the model's patches; smaller patches than the store's are re-cut here.
      normalize: `frame`, `global` or `none`.
    """

    stored: Geometry
    t_patch: int
    patch: int
    normalize: str = "frame"

    def __post_init__(self):
        if self.normalize not in NORMALIZATIONS:
            raise InputError(
                f"data.normalize={self.normalize!r} is unknown: choose one of "
                f"{', '.join(NORMALIZATIONS)}."
            )

    @property
    def geometry(self) -> Geometry:
        """The geometry cut into the model's patches."""
        return cut_geometry(self.stored, self.patch)

    def place(self, slots: int) -> np.ndarray:
        """(M,) int32: the place of each token on the full grid."""
        rows, columns = self.geometry.grid
        offset = np.arange(slots, dtype=np.int32)[:, None] * (rows * columns)
        return (offset + self.geometry.patch_index).reshape(-1)

    def __call__(self, bold_BxTxNxP: jax.Array, valid_bits_BxK: jax.Array) -> Tokens:
        """Cast, normalise, clamp, patchify."""
        batch, frames = bold_BxTxNxP.shape[:2]
        shape = (self.stored.n_patches, self.stored.patch_dim)
        bits = jnp.unpackbits(valid_bits_BxK, axis=-1, count=shape[0] * shape[1])
        valid_BxNxP = bits.reshape(batch, *shape).astype(bool)
        bold_BxTxNxP = normalize(
            bold_BxTxNxP.astype(jnp.float32), valid_BxNxP[:, None], self.normalize
        )
        slots = frames // self.t_patch
        bold = self._recut(bold_BxTxNxP).reshape(batch, slots, self.t_patch, -1, self.patch_dim)
        values = jnp.swapaxes(bold, 2, 3).reshape(batch, -1, self.t_patch * self.patch_dim)
        valid = self._recut(valid_BxNxP)[:, None, :, None, :]
        n = valid.shape[2]
        valid = jnp.broadcast_to(valid, (batch, slots, n, self.t_patch, self.patch_dim))
        valid = valid.reshape(values.shape)
        return Tokens(values, valid, valid.any(-1))

    @property
    def patch_dim(self) -> int:
        return self.geometry.patch_dim

    def _recut(self, x: jax.Array) -> jax.Array:
        """(..., N, P) -> (..., n, p): splits stored patches and drops the empty pieces."""
        fine = self.geometry
        if fine.patch_shape == self.stored.patch_shape:
            return x
        (h, w), (p, q) = self.stored.patch_shape, fine.patch_shape
        lead, n_stored = x.shape[:-2], self.stored.n_patches
        x = x.reshape(*lead, n_stored, h // p, p, w // q, q)
        x = jnp.swapaxes(x, -3, -2).reshape(*lead, -1, p * q)
        # Which piece each fine patch is: the pieces' numbers, painted on a frame and cut finely.
        pieces = np.arange(n_stored * (h // p) * (w // q)).reshape(n_stored, h // p, 1, w // q, 1)
        painted = np.broadcast_to(pieces, (n_stored, h // p, p, w // q, q)).reshape(n_stored, -1)
        index = fine.to_patches(self.stored.to_frames(painted))[:, 0]
        return x[..., index, :]


def cut_geometry(stored: Geometry, patch: int) -> Geometry:
    """The same pixels in patches of `patch`; 0 keeps the store's patches.

    Raises:
      InputError: the store's patches cannot be cut so.
    """
    if patch in (0, stored.patch_shape[0]) and (not patch or stored.patch_shape == (patch, patch)):
        return stored
    if any(side % patch for side in stored.patch_shape):
        h, w = stored.patch_shape
        raise InputError(
            f"model.patch={patch} does not divide the store's patches of {h} x {w}: choose a "
            "divisor, or convert the runs with another --patch-size."
        )
    return dataclasses.replace(stored, patch_shape=(patch, patch))


def normalize(x_BxTxNxP: jax.Array, valid_Bx1xNxP: jax.Array, kind: str) -> jax.Array:
    """Zero mean, unit sample deviation over the valid pixels, clamped to +-3, zero elsewhere.

    `frame` takes each frame by itself, `global` the whole clip, `none` only clamps.
    """
    if kind != "none":
        axes = (2, 3) if kind == "frame" else (1, 2, 3)
        frames = 1 if kind == "frame" else x_BxTxNxP.shape[1]
        count = frames * valid_Bx1xNxP.sum((1, 2, 3), keepdims=True, dtype=jnp.float32)
        mean = jnp.sum(x_BxTxNxP * valid_Bx1xNxP, axes, keepdims=True) / jnp.maximum(count, 1)
        centred = (x_BxTxNxP - mean) * valid_Bx1xNxP
        variance = jnp.sum(centred**2, axes, keepdims=True) / jnp.maximum(count - 1, 1)
        x_BxTxNxP = centred / (jnp.sqrt(variance) + 1e-6)
    return jnp.clip(x_BxTxNxP, -CLAMP, CLAMP) * valid_Bx1xNxP
