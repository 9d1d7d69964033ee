"""Reads flat surfaces, regions of interest and surface time series: GIFTI, MGZ and CIFTI.

A run is a pair of GIFTI or FreeSurfer files, one a hemisphere, or one CIFTI dense time series.
Letters in array names: T frames, X vertices of a hemisphere.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis
from nibabel.freesurfer import MGHImage
from nibabel.gifti import GiftiImage

from data_tools.errors import InputError, describe_os_error
from data_tools.hemispheres import hemisphere, left_of, right_of

# Spaces by their number of vertices a hemisphere.
SPACES = {
    2562: "fsaverage4",
    10242: "fsaverage5",
    40962: "fsaverage6",
    163842: "fsaverage",
    32492: "fsLR-32k",
    59292: "fsLR-59k",
}
_MS = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceRun:
    """The time series of the vertices of both hemispheres.

    Attributes:
      left: (T, X_left) float32.
      right: (T, X_right) float32.
      tr: seconds between frames as the header says, None where it does not.
    """

    left: np.ndarray
    right: np.ndarray
    tr: float | None

    @property
    def n_frames(self) -> int:
        return len(self.left)

    @property
    def space(self) -> str:
        """The space that this number of vertices belongs to."""
        n_left, n_right = self.left.shape[1], self.right.shape[1]
        if n_left == n_right and n_left in SPACES:
            return SPACES[n_left]
        return f"a mesh of {n_left:,} + {n_right:,} vertices"


def read_surface_run(path: str | os.PathLike, right: str | os.PathLike | None = None) -> SurfaceRun:
    """Reads a run.

    Args:
      path: a CIFTI `.dtseries.nii`, or the left hemisphere as GIFTI or MGZ (MGH).
      right: the right hemisphere; by default the file beside `path` that has the same name but for
        the hemisphere.

    Raises:
      InputError: a file is missing, damaged or no surface time series, or the hemispheres do not
        belong together.
    """
    path = Path(path)
    if is_cifti(path):
        return _read_cifti(path)
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


def read_flat_surface(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Reads a flat surface from GIFTI.

    Returns:
      points: (X, 3) float64 in mm.
      triangles: (F, 3) int32 indices into the points.

    Raises:
      InputError: the file is missing, damaged or no surface.
    """
    path = Path(path)
    with _readable(path):
        image = nibabel.load(path)
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


def is_cifti(path: str | os.PathLike) -> bool:
    """Whether the name is that of a CIFTI dense time series."""
    return Path(path).name.lower().endswith(".dtseries.nii")


def _find_right(left: Path) -> Path:
    side = hemisphere(left.name)
    if side is None:
        raise InputError(
            f"{left} does not say its hemisphere, so the other cannot be found: name the files of "
            "a pair like NAME.lh.mgz and NAME.rh.mgz, or NAME_hemi-L.func.gii."
        )
    if side == "right":
        raise InputError(f"{left} is a right hemisphere: put {left_of(left.name)} beside it.")
    right = left.with_name(right_of(left.name))
    if not right.exists():
        raise InputError(f"{left} has no right hemisphere beside it: put {right.name} there.")
    return right


def _read_hemisphere(path: Path) -> tuple[np.ndarray, float | None]:
    """(T, X) float32 series and TR of a GIFTI or MGZ file."""
    with _readable(path):
        image = nibabel.load(path)
        if isinstance(image, GiftiImage):
            series, tr = _gifti_series(image, path), _gifti_tr(image)
        elif isinstance(image, MGHImage):
            # The vertices lie along the first axes; time is the fourth.
            data = np.asarray(image.dataobj, np.float32)
            n_frames = data.shape[3] if data.ndim > 3 else 1
            series = np.ascontiguousarray(data.reshape(-1, n_frames, order="F").T)
            tr = float(image.header["tr"]) * _MS
        else:
            raise InputError(f"{path} is no surface data: give GIFTI (.func.gii), MGZ or CIFTI.")
    return series, _known(tr)


def _gifti_series(image: GiftiImage, path: Path) -> np.ndarray:
    """One array a frame, or all frames in one array with the vertices along either axis."""
    arrays = [array.data for array in image.darrays]
    if not arrays:
        raise InputError(f"{path} holds no data: give surface time series.")
    if len(arrays) == 1 and arrays[0].ndim == 2:
        series = arrays[0]
        # GIFTI puts vertices first; the number tells a file that does not.
        vertices_first = series.shape[0] in SPACES or series.shape[1] not in SPACES
        return np.ascontiguousarray(series.T if vertices_first else series, np.float32)
    if any(array.shape != arrays[0].shape or array.ndim != 1 for array in arrays):
        raise InputError(f"{path} holds arrays that are no frames: give surface time series.")
    return np.stack(arrays).astype(np.float32, copy=False)


def _gifti_tr(image: GiftiImage) -> float | None:
    """Seconds, from the entry TimeStep (ms) of the file or of its first array."""
    for meta in (image.meta, image.darrays[0].meta if image.darrays else {}):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return float(meta["TimeStep"]) * _MS
    return None


def _read_cifti(path: Path) -> SurfaceRun:
    with _readable(path):
        image = nibabel.load(path)
        if not isinstance(image, Cifti2Image):
            raise InputError(f"{path} is not CIFTI-2: convert it with wb_command.")
        axes = [image.header.get_axis(i) for i in range(image.ndim)]
        if not (
            len(axes) == 2
            and isinstance(axes[0], SeriesAxis)
            and isinstance(axes[1], BrainModelAxis)
        ):
            raise InputError(f"{path} is no dense time series: give a .dtseries.nii file.")
        left = _cortex(image, axes[1], "CIFTI_STRUCTURE_CORTEX_LEFT", path)
        right = _cortex(image, axes[1], "CIFTI_STRUCTURE_CORTEX_RIGHT", path)
        tr = float(axes[0].step) if axes[0].unit.upper() == "SECOND" else None
    return SurfaceRun(left, right, _known(tr))


def _cortex(image: Cifti2Image, axis: BrainModelAxis, structure: str, path: Path) -> np.ndarray:
    """(T, X) series of a hemisphere; vertices that the file leaves out (medial wall) are 0."""
    for name, columns, model in axis.iter_structures():
        if name == structure:
            series = np.zeros((image.shape[0], axis.nvertices[name]), np.float32)
            series[:, model.vertex] = image.dataobj[:, columns]
            return series
    side = structure.rsplit("_", 1)[-1].lower()
    raise InputError(f"{path} has no {side} cortex: give a run with both hemispheres.")


def _known(tr: float | None) -> float | None:
    """A TR without the rounding of a float32 header; 0 means that it is not known."""
    return round(tr, 6) if tr and np.isfinite(tr) else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tells whatever goes wrong while a file is read in one sentence."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: check the path.")
    try:
        with warnings.catch_warnings():
            # nibabel warns of harmless oddities of headers, once a file.
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(describe_os_error(error)) from error
    except Exception as error:
        # Parsers of half a dozen formats meet truncated files with as many exceptions.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read, it is damaged or incomplete ({reason}): copy it again."
        ) from error
