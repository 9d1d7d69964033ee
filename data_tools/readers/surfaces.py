"""Reads flat surfaces, regions of interest and surface time series: GIFTI, MGZ, NIfTI and CIFTI.

A run is a pair of GIFTI or FreeSurfer files (MGZ, or NIfTI with the vertices along its first axis),
one a hemisphere, or one CIFTI dense time series.
Letters in array names: T frames, X vertices of a hemisphere.
"""

import contextlib
import gzip
import os
import re
from pathlib import Path

import numpy as np
from nibabel.freesurfer import MGHImage
from nibabel.gifti import GiftiImage
from nibabel.nifti1 import Nifti1Pair

from data_tools.errors import InputError
from data_tools.readers.cifti import cifti_header, cifti_run, is_cifti, open_cifti
from data_tools.readers.image_files import load_image
from data_tools.readers.surface_run import (
    SPACES,
    SurfaceHeader,
    SurfaceRun,
    hemisphere,
    other_side,
    readable,
    told_tr,
    without_side,
)
from data_tools.readers.volume_run import volume_tr

_MS = 1e-3
# The XML of a GIFTI file tells the size and the TR before the data of its first array.
_GIFTI_HEAD = 2**20


def read_surface_run(
    path: str | os.PathLike, right: str | os.PathLike | None = None, *, whole: bool = False
) -> SurfaceRun:
    """Reads a run.

    Args:
      path: a CIFTI `.dtseries.nii`, or the left hemisphere as GIFTI or MGZ (MGH).
      right: the right hemisphere; by default the file beside `path` that has the same name but for
        the hemisphere.
      whole: whether the voxels below the cortex, which CIFTI has, are wanted too.

    Raises:
      InputError: a file is missing, damaged or no surface time series, or the hemispheres do not
        belong together.
    """
    path = Path(path)
    if is_cifti(path):
        with readable(path):
            return cifti_run(open_cifti(path), str(path), whole)
    if right is None:
        right = _find_right(path)
    left_series, left_tr = _read_hemisphere(path)
    right_series, right_tr = _read_hemisphere(Path(right))
    if len(left_series) != len(right_series):
        raise InputError(
            f"{path} has {len(left_series)} frames and {right} has {len(right_series)}: give the "
            "two hemispheres of one run."
        )
    if left_tr != right_tr and None not in (left_tr, right_tr):
        raise InputError(
            f"{path} says a TR of {left_tr:g} s and {right} says {right_tr:g} s: give the two "
            "hemispheres of one run."
        )
    return SurfaceRun(left_series, right_series, left_tr or right_tr)


def read_surface_header(path: str | os.PathLike) -> SurfaceHeader:
    """Reads what the header of a run tells, without its data.

    Args:
      path: as for `read_surface_run`; of a pair, the right hemisphere is found by name.

    Raises:
      InputError: a file is missing, damaged or no surface time series.
    """
    path = Path(path)
    if is_cifti(path):
        with readable(path):
            return cifti_header(open_cifti(path, only_header=True), str(path))
    right = _find_right(path)
    n_frames, n_left, tr = _hemisphere_header(path)
    _, n_right, right_tr = _hemisphere_header(right)
    return SurfaceHeader(n_frames, n_left, n_right, tr or right_tr)


def read_flat_surface(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads a flat surface from GIFTI.

    Returns:
      points: (X, 3) float64 in mm.
      triangles: (F, 3) int32 indices into the points.

    Raises:
      InputError: the file is missing, damaged or no surface.
    """
    path = Path(path)
    with readable(path):
        image = load_image(path)
        if not isinstance(image, GiftiImage):
            raise InputError(f"{path} is not a GIFTI surface: give a .surf.gii file.")
        points = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
        triangles = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
        if not points or not triangles:
            raise InputError(f"{path} holds no surface: give a flat surface as GIFTI.")
        return points[0].data.astype(np.float64), triangles[0].data.astype(np.int32)


def read_roi(path: str | os.PathLike) -> np.ndarray:
    """Reads a region of interest of one hemisphere from GIFTI or MGZ: vertices above 0.

    Returns:
      (X,) bool.

    Raises:
      InputError: the file is missing or damaged.
    """
    values, _ = _read_hemisphere(Path(path))
    return values[0] > 0


def _find_right(left: Path) -> Path:
    side = hemisphere(left.name)
    if side is None:
        raise without_side(left)
    if side == "right":
        raise InputError(f"{left} is a right hemisphere: put {other_side(left.name)} beside it.")
    right = left.with_name(other_side(left.name))
    if not os.path.lexists(right):
        raise InputError(f"{left} has no right hemisphere beside it: put {right.name} there.")
    return right


def _read_hemisphere(path: Path) -> tuple[np.ndarray, float | None]:
    """(T, X) float32 series and TR of a file of one hemisphere."""
    with readable(path):
        image = load_image(path)
        if isinstance(image, GiftiImage):
            series, tr = _gifti_series(image, path), told_tr(_gifti_tr(image))
        elif _is_freesurfer(image):
            # The vertices lie along the first axes; time is the fourth.
            data = np.asarray(image.dataobj, np.float32)
            n_frames = data.shape[3] if data.ndim > 3 else 1
            series = np.ascontiguousarray(data.reshape(-1, n_frames, order="F").T)
            tr = _freesurfer_tr(image)
        else:
            raise _no_surface(path)
    return series, tr


def _gifti_series(image: GiftiImage, path: Path) -> np.ndarray:
    """One array a frame, or all frames in one array with the vertices along either axis."""
    arrays = [array.data for array in image.darrays]
    if not arrays:
        raise InputError(f"{path} holds no data: give surface time series.")
    if len(arrays) == 1 and arrays[0].ndim == 2:
        series = arrays[0].T if _vertices_first(arrays[0].shape) else arrays[0]
        return np.ascontiguousarray(series, np.float32)
    if any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise InputError(f"{path} holds arrays that are no frames: give surface time series.")
    return np.stack(arrays).astype(np.float32, copy=False)


def _vertices_first(shape: tuple[int, int]) -> bool:
    """GIFTI puts vertices first; the number tells a file that does not."""
    return shape[0] in SPACES or shape[1] not in SPACES


def _gifti_tr(image: GiftiImage) -> float | None:
    """Seconds, from the entry TimeStep (ms) of the file or of its first array."""
    for meta in (image.meta, image.darrays[0].meta if image.darrays else {}):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return float(meta["TimeStep"]) * _MS
    return None


def _is_freesurfer(image: object) -> bool:
    """MGZ, or NIfTI that is no volume, as all vertices lie along its first axis."""
    return isinstance(image, MGHImage) or (
        isinstance(image, Nifti1Pair) and image.shape[1:2] == (1,)
    )


def _freesurfer_tr(image: MGHImage | Nifti1Pair) -> float | None:
    if isinstance(image, MGHImage):
        return told_tr(float(image.header["tr"]) * _MS)
    return volume_tr(image) if image.ndim > 3 else None


def _no_surface(path: Path) -> InputError:
    return InputError(f"{path} is no surface data: give GIFTI (.func.gii), MGZ or CIFTI.")


def _hemisphere_header(path: Path) -> tuple[int, int, float | None]:
    """Frames, vertices and TR of a file of one hemisphere."""
    with readable(path):
        if not re.search(r"\.gii(\.gz)?$", path.name.lower()):
            image = load_image(path)
            if not _is_freesurfer(image):
                raise _no_surface(path)
            n_frames = int(image.shape[3]) if len(image.shape) > 3 else 1
            return n_frames, int(np.prod(image.shape[:3])), _freesurfer_tr(image)
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            head = file.read(_GIFTI_HEAD).decode("utf-8", "replace")
        found = {
            name: int(value)
            for name, value in re.findall(r'\b(NumberOfDataArrays|Dim[01])\s*=\s*"(\d+)"', head)[:3]
        }
        if found.get("NumberOfDataArrays", 0) < 1 or "Dim0" not in found:
            raise _no_surface(path)
        step = re.search(r"TimeStep\W.*?<Value>\D*?([\d.]+(?:[eE][+-]?\d+)?)", head, re.DOTALL)
        sizes = found["NumberOfDataArrays"], found["Dim0"]
        if found["NumberOfDataArrays"] == 1 and "Dim1" in found:
            sizes = found["Dim0"], found["Dim1"]
            if _vertices_first(sizes):
                sizes = sizes[::-1]
    return *sizes, told_tr(float(step[1]) * _MS if step else None)
