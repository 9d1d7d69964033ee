"""The geometry of a space: which pixels hold data and how the frame is cut into patches.

A geometry is the map from a brain space to tokens, and all that a model knows of the space.
A frame is an (H, W) image; the patch grid cuts it into equal patches; a *cortical patch* holds
at least one valid pixel, and only those are stored and trained on. Letters in array names:
T frames, H x W pixels, N cortical patches, P pixels of a patch, V valid pixels.
"""

import dataclasses
import functools
import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from data_tools.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """Valid pixels and patch grid of a space.

    Attributes:
      space: name of the space, such as "flat-fsaverage5".
      mask: (H, W) bool, the valid pixels.
      patch_shape: height and width of a patch in pixels; must divide H and W.
      bbox: (xmin, xmax, ymin, ymax) of the pixel grid in mm, zeros where it means nothing.
      pixel_size: side of a pixel in mm, 0 where it means nothing.
    """

    space: str
    mask: np.ndarray
    patch_shape: tuple[int, int]
    bbox: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    pixel_size: float = 0.0

    def __post_init__(self):
        height, width = self.mask.shape
        patch_height, patch_width = self.patch_shape
        if height % patch_height or width % patch_width:
            raise InputError(
                f"Patches of {patch_height} x {patch_width} do not divide the {height} x {width} "
                "frame: choose a patch size that does."
            )
        if not self.mask.any():
            raise InputError(f"The geometry '{self.space}' has no valid pixel.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the full patch grid."""
        return (
            self.mask.shape[0] // self.patch_shape[0],
            self.mask.shape[1] // self.patch_shape[1],
        )

    @functools.cached_property
    def patch_index(self) -> np.ndarray:
        """(N,) int32: row-major places of the cortical patches on the grid, ascending."""
        return np.flatnonzero(self._cut(self.mask).any(-1)).astype(np.int32)

    @functools.cached_property
    def patch_mask(self) -> np.ndarray:
        """(N, P) bool: the valid pixels, patch by patch."""
        return self.to_patches(self.mask)

    @property
    def n_patches(self) -> int:
        return len(self.patch_index)

    @property
    def patch_dim(self) -> int:
        return self.patch_shape[0] * self.patch_shape[1]

    @property
    def n_pixels(self) -> int:
        """Number of valid pixels."""
        return int(self.mask.sum())

    def _cut(self, frames: np.ndarray) -> np.ndarray:
        """(..., H, W) -> (..., grid rows * columns, P)."""
        lead, (rows, columns), (p, q) = frames.shape[:-2], self.grid, self.patch_shape
        cut = frames.reshape(*lead, rows, p, columns, q)
        return cut.swapaxes(-2, -3).reshape(*lead, rows * columns, p * q)

    def to_patches(self, frames: np.ndarray) -> np.ndarray:
        """(..., H, W) -> (..., N, P): the cortical patches of images, NumPy's or a device's."""
        return self._cut(frames)[..., self.patch_index, :]

    def to_frames(self, patches: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """(..., N, P) -> (..., H, W): images from patches, `fill` off the cortical patches."""
        lead, (rows, columns), (p, q) = patches.shape[:-2], self.grid, self.patch_shape
        full = np.full((*lead, rows * columns, p * q), fill, patches.dtype)
        full[..., self.patch_index, :] = patches
        full = full.reshape(*lead, rows, columns, p, q)
        return np.moveaxis(full, -2, -3).reshape(*lead, *self.mask.shape)

    @functools.cached_property
    def _pixel_offset(self) -> np.ndarray:
        """(V,) offsets into a flat (N * P) frame, of the valid pixels in raster order."""
        raster = np.zeros(self.mask.shape, np.int64)
        raster[self.mask] = np.arange(self.n_pixels)
        offset = np.empty(self.n_pixels, np.int64)
        offset[self.to_patches(raster)[self.patch_mask]] = np.flatnonzero(self.patch_mask)
        return offset

    def pixels_to_patches(self, pixels: np.ndarray) -> np.ndarray:
        """(..., V) valid pixels in raster order of the mask -> (..., N, P), zeros elsewhere."""
        lead = pixels.shape[:-1]
        patches = np.zeros((*lead, self.n_patches * self.patch_dim), pixels.dtype)
        patches[..., self._pixel_offset] = pixels
        return patches.reshape(*lead, self.n_patches, self.patch_dim)

    def to_bytes(self) -> bytes:
        """The bytes of `geometry.npz`; the same geometry gives the same bytes."""
        patch_height, patch_width = self.patch_shape
        square = patch_height == patch_width
        buffer = io.BytesIO()
        np.savez(
            buffer,
            space=np.array(self.space),
            mask=self.mask.astype(bool),
            patch_size=np.int32(patch_height if square else self.patch_shape),
            patch_index=self.patch_index,
            bbox=np.float64(self.bbox),
            pixel_size=np.float64(self.pixel_size),
        )
        return buffer.getvalue()

    def sha256(self) -> str:
        """Checksum of the bytes of `geometry.npz`, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def same_grid(self, other: "Geometry") -> bool:
        """Whether the weights of a model of one geometry fit the other."""
        return self.mask.shape == other.mask.shape and self.patch_shape == other.patch_shape

    def overlap(self, other: "Geometry") -> float:
        """Intersection over union of the valid pixels of two geometries on one grid."""
        return float((self.mask & other.mask).sum() / (self.mask | other.mask).sum())


def load_geometry(path: str | os.PathLike) -> Geometry:
    """Reads a `geometry.npz`.

    Raises:
      InputError: the file is missing, damaged, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: the geometry is missing.")
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
        patch_size = np.broadcast_to(data["patch_size"], (2,))
        geometry = Geometry(
            space=str(data["space"]),
            mask=data["mask"].astype(bool),
            patch_shape=(int(patch_size[0]), int(patch_size[1])),
            bbox=tuple(float(x) for x in data["bbox"]),
            pixel_size=float(data["pixel_size"]),
        )
        stored_index = data["patch_index"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): make it again from its source.") from error
    if not np.array_equal(stored_index, geometry.patch_index):
        raise InputError(f"{path} lists other patches than its mask has: make it again.")
    return geometry
