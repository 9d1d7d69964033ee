"""From stored float16 patches to the model's tokens, on the device inside the jitted step.

Letters: B clips, T frames, N stored patches, P pixels of a stored patch, n patches of the model,
p pixels of a model patch, M = slots * n tokens, V = values of a token.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.errors import InputError, check_choice
from data_tools.spaces.geometry import Geometry
from fmrifm.input.augment import Augmentation, crop, jitter, require_image, scale_tr

CLAMP = 3.0
NORMALIZATIONS = ("frame", "global", "none")


class Tokens(NamedTuple):
    """A batch of clips as the model takes it."""

    values_BxMxV: jax.Array  # float32, normalised, zero where there is no data
    valid_BxMxV: jax.Array  # bool, which values are data


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """The fixed part of the way from a store's patches to tokens.

    Attributes:
      stored: geometry of the batch.
      num_frames: frames of a clip.
      t_patch: frames of a token.
      patch: side of the model's patches, or (height, width), or 0 for the store's; smaller patches
        than the store's are re-cut here.
      normalize: `frame`, `global` or `none`.
      augmentation: what happens to training clips.
    """

    stored: Geometry
    num_frames: int
    t_patch: int
    patch: int | tuple[int, int]
    normalize: str = "frame"
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        check_choice("data.normalize", self.normalize, NORMALIZATIONS)
        if self.augmentation.crop_scale < 1:
            require_image(self.stored)

    @functools.cached_property
    def geometry(self) -> Geometry:
        """The geometry cut into the model's patches."""
        return cut_geometry(self.stored, self.patch)

    def __call__(self, batch: dict[str, jax.Array], keys_B: jax.Array | None = None) -> Tokens:
        """Cast, normalise, clamp, patchify.

        Args:
          batch: see `ClipReader.read`.
          keys_B: one key a clip, of its augmentations; None for none.
        """
        n_patches, patch_dim = self.stored.n_patches, self.stored.patch_dim
        bits_BxK = jnp.unpackbits(batch["valid"], axis=-1, count=n_patches * patch_dim)
        valid_BxNxP = bits_BxK.reshape(-1, n_patches, patch_dim).astype(bool)
        bold_BxTxNxP = batch["bold"].astype(jnp.float32)
        kind = self.normalize
        if "mean" in batch:  # undoes the z-score of the run, and needs a scale in its place
            bold_BxTxNxP = bold_BxTxNxP * batch["std"][:, None] + batch["mean"][:, None]
            kind = "global" if kind == "none" else kind
        a, geometry = self.augmentation, self.stored
        if keys_B is not None:
            bold_BxTxNxP = scale_tr(keys_B, bold_BxTxNxP, self.num_frames, a.tr_scale)
        x_BxTxNxP = normalize(bold_BxTxNxP, valid_BxNxP[:, None], kind)
        if keys_B is not None:
            x_BxTxNxP, valid_BxNxP = crop(
                keys_B, x_BxTxNxP, valid_BxNxP, geometry, a.crop_scale, a.crop_aspect, CLAMP
            )
            x_BxTxNxP = jitter(keys_B, x_BxTxNxP, valid_BxNxP, a.gray_jitter)
        return self._patchify(x_BxTxNxP, valid_BxNxP)

    def _patchify(self, bold_BxTxNxP: jax.Array, valid_BxNxP: jax.Array) -> Tokens:
        batch, frames, t_patch = *bold_BxTxNxP.shape[:2], self.t_patch
        n, p = self.geometry.n_patches, self.geometry.patch_dim
        bold = self._recut(bold_BxTxNxP).reshape(batch, frames // t_patch, t_patch, n, p)
        values_BxMxV = jnp.swapaxes(bold, 2, 3).reshape(batch, -1, t_patch * p)
        valid = self._recut(valid_BxNxP)[:, None, :, None, :]
        valid = jnp.broadcast_to(valid, (batch, frames // t_patch, n, t_patch, p))
        return Tokens(values_BxMxV, valid.reshape(values_BxMxV.shape))

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


def cut_geometry(stored: Geometry, patch: int | tuple[int, int]) -> Geometry:
    """The same pixels in patches of `patch` (see `Tokenizer`); 0 keeps the store's patches.

    Raises:
      InputError: the store's patches cannot be cut so.
    """
    shape = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if patch == 0 or shape == stored.patch_shape:
        return stored
    if any(side % part for side, part in zip(stored.patch_shape, shape, strict=True)):
        h, w = stored.patch_shape
        raise InputError(
            f"model.patch={patch} does not divide the store's patches of {h} x {w}: choose a "
            "divisor (0 takes them as they are), or convert the runs with another --patch-size."
        )
    return dataclasses.replace(stored, patch_shape=shape)


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
