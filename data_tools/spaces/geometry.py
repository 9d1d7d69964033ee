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
import math
import os

import numpy as np

from data_tools.errors import InputError, as_input_errors, check_file
from data_tools.files.npy import parse_arrays

# A flat map has 125,440 pixels; far more would fill the memory with places of pixels.
_MOST_PIXELS = 2**24
_MOST_BYTES = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class Geometry:
    """Valid pixels and patch grid of a space.

    Attributes:
      space: name of the space, such as "flat-fsaverage5".
      mask: (H, W) bool, the valid pixels.
      patch_shape: height and width of a patch in pixels; must divide H and W.
      bbox: (xmin, xmax, ymin, ymax) of the pixel grid in mm, zeros where it means nothing.
      pixel_size: side of a pixel in mm, 0 where it means nothing.
      regions: names of the parcels, in the order of the patches; empty for other spaces.
      source_sha256: checksum of the parcellation or mask that defines the space; "" if unknown.
      picture: (H', W') int32, row-major place on the frame of what each pixel of the flat map
        shows, -1 where it shows nothing; None for images of the cortex, and where nobody knows.
      columns: (H, W) int32, the column of published (T, C) data that each pixel is, -1 for none;
        None where they are the valid pixels in raster order.
      n_columns: C where `columns` is given, else 0.
    """

    space: str
    mask: np.ndarray
    patch_shape: tuple[int, int]
    bbox: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    pixel_size: float = 0.0
    regions: tuple[str, ...] = ()
    source_sha256: str = ""
    picture: np.ndarray | None = None
    columns: np.ndarray | None = None
    n_columns: int = 0

    def __post_init__(self):
        height, width = self.mask.shape
        patch_height, patch_width = self.patch_shape
        if self.mask.size > _MOST_PIXELS:
            raise InputError(f"Frames of {height} x {width} pixels are too large for a geometry.")
        if min(self.patch_shape) < 1 or height % patch_height or width % patch_width:
            raise InputError(
                f"Patches of {patch_height} x {patch_width} do not divide the {height} x {width} "
                "frame: choose a patch size that does."
            )
        if not self.mask.any():
            raise InputError(f"The geometry '{self.space}' has no valid pixel.")
        self._check_places()

    def _check_places(self) -> None:
        size = self.mask.size
        places = self.picture is None
        if not places:
            places = self.picture.ndim == 2 and self.picture.dtype.kind in "iu"
            places = places and 0 < self.picture.size <= _MOST_PIXELS
            places = places and self.picture.min() >= -1 and self.picture.max() < size
        regions = not self.regions or len(self.regions) == len(self.mask)
        columns = self.n_columns == 0
        if self.columns is not None:
            columns = self.columns.shape == self.mask.shape and self.columns.dtype.kind in "iu"
            columns = columns and self.n_columns <= _MOST_PIXELS
            columns = columns and (self.columns[self.mask] >= 0).all()
            columns = columns and self.columns.max() < self.n_columns
        if not (places and regions and columns):
            raise InputError(f"The geometry '{self.space}' contradicts itself: make it again.")

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

    def patches_to_pixels(self, patches: np.ndarray) -> np.ndarray:
        """(..., N, P) -> (..., V), the valid pixels in raster order of the mask."""
        return patches.reshape(*patches.shape[:-2], -1)[..., self._pixel_offset]

    @property
    def width(self) -> int:
        """C, the number of columns of published data of this space."""
        return self.n_pixels if self.columns is None else self.n_columns

    def from_columns(self, columns: np.ndarray) -> np.ndarray:
        """(..., C) as published data have it -> (..., N, P), zeros elsewhere."""
        pixels = columns if self.columns is None else columns[..., self.columns[self.mask]]
        return self.pixels_to_patches(pixels)

    def to_columns(self, patches: np.ndarray) -> np.ndarray:
        """(..., N, P) -> (..., C) as published data have it; zeros where no pixel is a column."""
        pixels = self.patches_to_pixels(patches)
        if self.columns is None:
            return pixels
        columns = np.zeros((*pixels.shape[:-1], self.n_columns), pixels.dtype)
        columns[..., self.columns[self.mask]] = pixels
        return columns

    @property
    def is_image(self) -> bool:
        """Whether frames can be shown as images of the cortex."""
        return bool(self.pixel_size) or self.picture is not None

    @property
    def image_mask(self) -> np.ndarray:
        """(H', W') bool: the pixels of `to_image` that show something."""
        return self.to_image(self.patch_mask, fill=False)

    def to_image(self, patches: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """(..., N, P) -> (..., H', W'): the picture of frames, `fill` where it shows nothing."""
        frames = self.to_frames(patches, fill)
        if self.picture is None:
            return frames
        image = frames.reshape(*frames.shape[:-2], -1)[..., self.picture]
        image[..., self.picture < 0] = fill
        return image

    def to_bytes(self) -> bytes:
        """The bytes of `geometry.npz`; the same geometry gives the same bytes."""
        patch_height, patch_width = self.patch_shape
        square = patch_height == patch_width
        extra = {
            "regions": np.array(self.regions) if self.regions else None,
            "source_sha256": np.array(self.source_sha256) if self.source_sha256 else None,
            "picture": self.picture,
            "columns": self.columns,
            "n_columns": None if self.columns is None else np.int64(self.n_columns),
        }
        buffer = io.BytesIO()
        np.savez(
            buffer,
            space=np.array(self.space),
            mask=self.mask.astype(bool),
            patch_size=np.int32(patch_height if square else self.patch_shape),
            patch_index=self.patch_index,
            bbox=np.float64(self.bbox),
            pixel_size=np.float64(self.pixel_size),
            **{name: value for name, value in extra.items() if value is not None},
        )
        return buffer.getvalue()

    def sha256(self) -> str:
        """Checksum of the bytes of `geometry.npz`, hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def same_grid(self, other: "Geometry") -> bool:
        """Whether the weights of a model of one geometry fit the other."""
        same_shape = self.mask.shape == other.mask.shape and self.patch_shape == other.patch_shape
        return same_shape and self.same_source(other)

    def same_source(self, other: "Geometry") -> bool:
        """Whether both were made from one parcellation or mask, as far as they tell."""
        return self.source_sha256 == other.source_sha256 or not (
            self.source_sha256 and other.source_sha256
        )

    def overlap(self, other: "Geometry") -> float:
        """Intersection over union of the valid pixels of two geometries on one grid."""
        return float((self.mask & other.mask).sum() / (self.mask | other.mask).sum())


def load_geometry(path: str | os.PathLike) -> Geometry:
    """Reads a `geometry.npz`.

    Raises:
      InputError: the file is missing, damaged, or contradicts itself.
    """
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist: the geometry is missing.")
    with as_input_errors():
        data = check_file(path).read_bytes()
    return parse_geometry(data, path)


def _frame(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool; ValueError for what is no mask of pixels."""
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "biu":
        raise ValueError("its mask is no image")
    return mask.astype(bool)


def parse_geometry(data: bytes, path: str | os.PathLike) -> Geometry:
    """The geometry in the bytes of a `geometry.npz`; `path` is named where they are damaged."""
    fields = parse_arrays(data, path, "make it again from its source", _MOST_BYTES)
    try:
        patch_size = np.broadcast_to(fields["patch_size"], (2,))
        geometry = Geometry(
            space=str(fields["space"]),
            mask=_frame(fields["mask"]),
            patch_shape=(int(patch_size[0]), int(patch_size[1])),
            bbox=tuple(float(x) for x in fields["bbox"]),
            pixel_size=float(fields["pixel_size"]),
            regions=tuple(map(str, fields.get("regions", ()))),
            source_sha256=str(fields.get("source_sha256", "")),
            picture=fields.get("picture"),
            columns=fields.get("columns"),
            n_columns=int(fields.get("n_columns", 0)),
        )
        stored_index = fields["patch_index"]
        if len(geometry.bbox) != 4 or not all(map(math.isfinite, geometry.bbox)):
            raise ValueError("its bbox is not four numbers")
        if not 0 <= geometry.pixel_size < math.inf:
            raise ValueError("its pixel_size is no size")
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): make it again from its source.") from error
    if not np.array_equal(stored_index, geometry.patch_index):
        raise InputError(f"{path} lists other patches than its mask has: make it again.")
    return geometry
