"""Random changes of a training clip, on the device inside the jitted step.

In the order of use: TR scaling of the frames read, then, on normalised values, a random resized
crop and gray jitter. Each is one function that draws its numbers from one key a clip and one that
applies them; the three draws from one key are independent. Letters: B clips, S frames read,
T frames of a clip, N cortical patches, P pixels of a patch, H x W pixels of a frame, K proposals
for a crop, O and I pixels along an axis after and before a crop.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry

PROPOSALS = 10  # of a crop, before the whole frame is kept
CUBIC = -0.5  # Keys' a, that of antialiased bicubic resizing
_WINDOW, _BOX, _FACTORS = range(3)  # what a clip's key is for


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How strongly clips are changed; the defaults change nothing.

    Attributes:
      tr_scale: 0.8 lets the observed TR lie between 0.8 and 1 / 0.8 of the stored one.
      crop_scale: smallest share of the frame's area that a crop keeps; 1 is off.
      crop_aspect: a crop's aspect ratio is that of the frame times something from this to 1 / this.
      gray_jitter: brightness and contrast are multiplied by 1 - this to 1 + this.
    """

    tr_scale: float = 1.0
    crop_scale: float = 1.0
    crop_aspect: float = 1.0
    gray_jitter: float = 0.0

    def __post_init__(self):
        for name in ("tr_scale", "crop_scale", "crop_aspect"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"augment.{name}={getattr(self, name)} must lie in (0, 1].")
        if self.crop_aspect < 1 and self.crop_scale == 1:
            raise InputError("augment.crop_aspect changes crops: set augment.crop_scale below 1.")
        if not 0 <= self.gray_jitter < 1:
            raise InputError(f"augment.gray_jitter={self.gray_jitter} must lie in [0, 1).")

    def frames_read(self, num_frames: int) -> int:
        """Frames the host must read for a clip of `num_frames`: the longest window."""
        return round(num_frames / self.tr_scale)


def uniform(keys_B, purpose: int, count: int) -> jax.Array:
    """(B, count) float32 in [0, 1), for one purpose of each clip's key."""
    return jax.vmap(
        lambda key: jax.random.uniform(jax.random.fold_in(key, purpose), (count,), jnp.float32)
    )(keys_B)


def _integers(uniform, count) -> jax.Array:
    """int32 in [0, count) from numbers in [0, 1)."""
    return jnp.floor(uniform * count).astype(jnp.int32)


def scale_tr(keys_B, bold_BxSxNxP, num_frames: int, scale: float) -> jax.Array:
    """(B, T, N, P): a random window of the frames read, resized to `num_frames`."""
    shortest, longest = max(1, round(num_frames * scale)), round(num_frames / scale)
    if bold_BxSxNxP.shape[1] != longest:
        raise ValueError(f"{bold_BxSxNxP.shape[1]} frames were read, {longest} are needed.")
    if scale == 1:
        return bold_BxSxNxP
    return resize_windows(bold_BxSxNxP, draw_windows(keys_B, shortest, longest), num_frames)


def draw_windows(keys_B, shortest: int, longest: int) -> jax.Array:
    """(B, 2) int32, start and length: uniform lengths, then uniform starts within `longest`."""
    for_length_B, for_start_B = uniform(keys_B, _WINDOW, 2).T
    length_B = shortest + _integers(for_length_B, longest - shortest + 1)
    return jnp.stack([_integers(for_start_B, longest - length_B + 1), length_B], axis=1)


def resize_windows(bold_BxSxNxP, windows_Bx2, num_frames: int) -> jax.Array:
    """(B, T, N, P): windows resized linearly, a frame being an interval of time."""

    def resize(bold_SxNxP, window_2):
        start, length = window_2
        place_T = jnp.maximum((jnp.arange(num_frames) + 0.5) * (length / num_frames) - 0.5, 0)
        before_T = jnp.floor(place_T).astype(jnp.int32)
        after_T = jnp.minimum(before_T + 1, length - 1)
        share_Tx1x1 = (place_T - before_T)[:, None, None]
        before, after = bold_SxNxP[start + before_T], bold_SxNxP[start + after_T]
        return (1 - share_Tx1x1) * before + share_Tx1x1 * after

    return jax.vmap(resize)(bold_BxSxNxP, windows_Bx2)


def crop(keys_B, bold_BxTxNxP, valid_BxNxP, geometry: Geometry, scale, aspect, limit):
    """Bold (B, T, N, P) and valid (B, N, P) of a random part of the frame, resized to fill it.

    Args:
      bold_BxTxNxP: float32, zero where not valid.
      valid_BxNxP: bool, the clip's pixels with data.
      scale, aspect: `crop_scale` and `crop_aspect` of `Augmentation`.
      limit: values are clamped to +-limit again, for cubics overshoot.
    """
    if scale == 1:
        return bold_BxTxNxP, valid_BxNxP
    require_image(geometry)
    boxes_Bx2x2 = draw_boxes(keys_B, geometry.mask.shape, scale, aspect)
    return resize_boxes(bold_BxTxNxP, valid_BxNxP, boxes_Bx2x2, geometry, limit)


def require_image(geometry: Geometry) -> None:
    """Raises InputError for parcels and voxels: their neighbours on the frame mean nothing."""
    if not geometry.pixel_size:
        raise InputError(
            f"augment.crop_scale crops images of the cortex, and '{geometry.space}' is none: set "
            "augment.crop_scale=1."
        )


def draw_boxes(keys_B, shape: tuple[int, int], scale: float, aspect: float) -> jax.Array:
    """(B, 2, 2) int32, ((top, left), (height, width)) of the first proposal that fits.

    Areas are uniform, aspect ratios log-uniform about the frame's, corners uniform. Where none of
    the proposals fits, the box is the whole frame, whose aspect ratio is always allowed.
    """
    frame_2 = np.int32(shape)
    numbers_BxK = uniform(keys_B, _BOX, 2 * PROPOSALS + 2)
    for_area, for_aspect, for_corner_Bx2 = jnp.split(numbers_BxK, (PROPOSALS, 2 * PROPOSALS), 1)
    area_BxK = scale + (1 - scale) * for_area
    widening_BxK = jnp.exp((2 * for_aspect - 1) * jnp.log(aspect))
    shares_BxKx2 = jnp.sqrt(jnp.stack([area_BxK / widening_BxK, area_BxK * widening_BxK], axis=2))
    sides_BxKx2 = jnp.round(shares_BxKx2 * frame_2).astype(jnp.int32)
    fits_BxK = ((sides_BxKx2 > 0) & (sides_BxKx2 <= frame_2)).all(2)
    first_Bx1x1 = fits_BxK.argmax(1)[:, None, None]
    sides_Bx2 = jnp.take_along_axis(sides_BxKx2, first_Bx1x1, axis=1)[:, 0]
    sides_Bx2 = jnp.where(fits_BxK.any(1, keepdims=True), sides_Bx2, frame_2)
    return jnp.stack([_integers(for_corner_Bx2, frame_2 - sides_Bx2 + 1), sides_Bx2], axis=1)


def resize_boxes(bold_BxTxNxP, valid_BxNxP, boxes_Bx2x2, geometry: Geometry, limit: float):
    """Boxes resized to the frame: bicubic values within +-limit, validity of the nearest pixel.

    Returns:
      bold (B, T, N, P), zero where not valid; valid (B, N, P), within the geometry's mask.
    """
    height, width = geometry.mask.shape

    def resize(bold_TxNxP, valid_NxP, box_2x2):
        (top, left), (h, w) = box_2x2
        rows_H, columns_W = nearest(top, h, height), nearest(left, w, width)
        valid_HxW = _to_frames(valid_NxP, geometry)[rows_H][:, columns_W]
        valid_NxP = geometry.to_patches(valid_HxW) & geometry.patch_mask
        across_WxW, down_HxH = cubic_weights(left, w, width), cubic_weights(top, h, height)
        # Without a precision, accelerators multiply float32 with fewer bits.
        with jax.default_matmul_precision("highest"):
            bold_TxHxW = down_HxH @ _to_frames(bold_TxNxP, geometry) @ across_WxW.T
        bold_TxNxP = jnp.clip(geometry.to_patches(bold_TxHxW), -limit, limit)
        return jnp.where(valid_NxP, bold_TxNxP, 0), valid_NxP

    return jax.vmap(resize)(bold_BxTxNxP, valid_BxNxP, boxes_Bx2x2)


def nearest(first, length, size: int) -> jax.Array:
    """(O,) int32: the pixel that each comes from when `length` pixels from `first` fill an axis."""
    return first + jnp.floor(jnp.arange(size) * _step(length, size)).astype(jnp.int32)


def cubic_weights(first, length, size: int) -> jax.Array:
    """(O, I): what each comes from when `length` pixels from `first` fill an axis of `size`.

    Pixels beyond the box weigh nothing and each row sums to one. A box never shrinks, so the
    kernel is never stretched.
    """
    pixel_I = jnp.arange(size) - first
    centre_Ox1 = (jnp.arange(size)[:, None] + 0.5) * _step(length, size)
    x_OxI = jnp.abs(pixel_I + 0.5 - centre_Ox1)
    near_OxI = ((CUBIC + 2) * x_OxI - (CUBIC + 3)) * x_OxI**2 + 1
    far_OxI = CUBIC * (((x_OxI - 5) * x_OxI + 8) * x_OxI - 4)
    weights_OxI = jnp.where(x_OxI < 1, near_OxI, jnp.where(x_OxI < 2, far_OxI, 0))
    weights_OxI = jnp.where((pixel_I >= 0) & (pixel_I < length), weights_OxI, 0)
    return weights_OxI / weights_OxI.sum(1, keepdims=True)


def _step(length, size: int) -> jax.Array:
    """length / size from a table: were XLA's quotient an ulp off, nearest pixels would jump."""
    return jnp.asarray(np.arange(size + 1, dtype=np.float32) / np.float32(size))[length]


def _to_frames(x: jax.Array, geometry: Geometry) -> jax.Array:
    """(..., N, P) -> (..., H, W), as `geometry.to_frames` on the host."""
    lead, (rows, columns), (p, q) = x.shape[:-2], geometry.grid, geometry.patch_shape
    full = jnp.zeros((*lead, rows * columns, p * q), x.dtype)
    full = full.at[..., geometry.patch_index, :].set(x).reshape(*lead, rows, columns, p, q)
    return jnp.swapaxes(full, -3, -2).reshape(*lead, *geometry.mask.shape)


def jitter(keys_B, bold_BxTxNxP, valid_BxNxP, strength: float) -> jax.Array:
    """(B, T, N, P): clips of random brightness and contrast."""
    if strength == 0:
        return bold_BxTxNxP
    return rescale(bold_BxTxNxP, valid_BxNxP, draw_factors(keys_B, strength))


def draw_factors(keys_B, strength: float) -> jax.Array:
    """(B, 2): brightness and contrast, uniform from 1 - strength to 1 + strength."""
    return 1 + strength * (2 * uniform(keys_B, _FACTORS, 2) - 1)


def rescale(bold_BxTxNxP, valid_BxNxP, factors_Bx2) -> jax.Array:
    """Times brightness, then contrast about the mean over the valid pixels of all frames."""
    valid_Bx1xNxP = valid_BxNxP[:, None]
    brightness, contrast = factors_Bx2.T[:, :, None, None, None]
    x = bold_BxTxNxP * brightness
    count = x.shape[1] * valid_Bx1xNxP.sum((1, 2, 3), keepdims=True, dtype=jnp.float32)
    mean = jnp.sum(x * valid_Bx1xNxP, (1, 2, 3), keepdims=True) / jnp.maximum(count, 1)
    return ((x - mean) * contrast + mean) * valid_Bx1xNxP
