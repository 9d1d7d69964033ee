"""A run as a volume in MNI152 space: NIfTI files, brought to the 2 mm grid in RAS orientation.

Values are in the array order (Z, Y, X). Letters in array names: T frames, Z x Y x X voxels of the
grid, V voxels of the cortex, in raster order.
"""

import dataclasses
import math
import os
import re
from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Pair

from data_tools.errors import InputError
from data_tools.readers.image_files import load_image
from data_tools.readers.surface_run import readable, told_tr

# The grid of 2 mm: voxels (X, Y, Z), and the place in mm of the first.
MNI_SHAPE = (91, 109, 91)
MNI_AFFINE = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
_FRAME_BLOCK = 16
# Frames of few voxels would become as many times larger; no grid in use is so coarse.
_MOST_EMPTY, _COARSEST = 2**28, 100
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}


@dataclasses.dataclass(frozen=True)
class VolumeHeader:
    """What the header of a run tells.

    Attributes:
      n_frames: number of frames.
      tr: seconds between frames, None where it does not say.
    """

    n_frames: int
    tr: float | None

    space = grayordinates = "a volume"
    n_vertices = ()
    voxels_sha256 = ""


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeRun:
    """The time series of the voxels of the cortex.

    Attributes:
      values: (T, V) float32.
      tr: seconds between frames as the header says, None where it does not.
    """

    values: np.ndarray
    tr: float | None

    space = grayordinates = "a volume"
    voxels_sha256 = ""

    @property
    def n_frames(self) -> int:
        return len(self.values)

    @property
    def n_vertices(self) -> tuple[int]:
        """The number of voxels."""
        return (self.values.shape[1],)

    def series(self, window: slice) -> np.ndarray:
        """(t, V) the values of some frames, a copy."""
        return self.values[window].copy()


def is_volume(path: str | os.PathLike) -> bool:
    """Whether the name is that of a NIfTI volume, and neither of CIFTI nor of a surface."""
    name = Path(path).name.lower()
    if is_surface_nifti(name):
        return False
    return re.search(r"(?<!dtseries)(?<!dlabel)(?<!dscalar)\.nii(\.gz)?$", name) is not None


def is_surface_nifti(name: str) -> bool:
    """Whether a name is that of a surface in NIfTI: lh.NAME.nii.gz or NAME.lh.nii.gz."""
    return re.search(r"^[lr]h\..*\.nii(\.gz)?$|\.[lr]h\.nii(\.gz)?$", name.lower()) is not None


def read_volume_header(path: str | os.PathLike) -> VolumeHeader:
    """Reads what the header of a run tells, without its data.

    Raises:
      InputError: the file is missing, damaged, no time series, or in another space.
    """
    path = Path(path)
    with readable(path):
        image = _load(path)
        return VolumeHeader(image.shape[3], volume_tr(image))


def read_volume_run(path: str | os.PathLike, *, cortex_ZxYxX: np.ndarray) -> VolumeRun:
    """Reads the cortex of a run, in RAS orientation at 2 mm.

    Runs on another grid are interpolated linearly, zero outside of what was scanned.

    Args:
      path: a NIfTI time series in MNI152 space.
      cortex_ZxYxX: bool, the voxels of the grid to take.

    Raises:
      InputError: the file is missing, damaged, no time series, or in another space.
    """
    path = Path(path)
    with readable(path):
        image = _load(path)
        shape = (image.shape[3], int(cortex_ZxYxX.sum()))
        if math.prod(
            shape
        ) * 4 > _MOST_EMPTY + image.dataobj.dtype.itemsize * _COARSEST * math.prod(image.shape):
            raise InputError(
                f"{path} has frames of {' x '.join(map(str, image.shape[:3]))} voxels, too few for "
                "a brain: copy it again."
            )
        values = np.empty(shape, np.float32)
        for start in range(0, len(values), _FRAME_BLOCK):
            block = image.slicer[..., start : start + _FRAME_BLOCK]
            frames = np.asarray(to_mni(block, "linear").dataobj, np.float32).T
            values[start : start + _FRAME_BLOCK] = frames[:, cortex_ZxYxX]
        return VolumeRun(values, volume_tr(image))


def read_cortex(path: str | os.PathLike) -> np.ndarray:
    """Reads which voxels are cortex: labels or a mask in MNI152 space, on any grid.

    Returns:
      (Z, Y, X) bool on the grid of 2 mm, where the value of the nearest voxel is above 0.

    Raises:
      InputError: the file is missing, damaged, no single volume, or has no voxel above 0.
    """
    path = Path(path)
    with readable(path):
        image = load_image(path)
        _check_space(image, path)
        shape = image.shape[:3] if image.shape[3:] in ((), (1,)) else image.shape
        if len(shape) != 3:
            raise InputError(f"{path} is no single volume: give labels or a mask of the cortex.")
        values = np.asarray(image.dataobj, np.float32).reshape(shape)
        labels = to_mni(nibabel.Nifti1Image(values, image.affine), "nearest")
        cortex = np.ascontiguousarray((np.asarray(labels.dataobj) > 0).T)
    if not cortex.any():
        raise InputError(f"{path} has no voxel above 0 in MNI152 space: give a mask of the cortex.")
    return cortex


def to_mni(image: Nifti1Pair, interpolation: str) -> Nifti1Pair:
    """An image on the grid of 2 mm, in RAS orientation; flips and turns are exact."""
    from nilearn.image import resample_img

    image = nibabel.as_closest_canonical(image)
    if image.shape[:3] == MNI_SHAPE and np.allclose(image.affine, MNI_AFFINE, atol=1e-4):
        return image
    return resample_img(
        image,
        target_affine=MNI_AFFINE,
        target_shape=MNI_SHAPE,
        interpolation=interpolation,
        force_resample=True,
        copy_header=True,
    )


def _load(path: Path) -> Nifti1Pair:
    # Kept open: a gzipped file is read from its start again each time it is opened.
    image = load_image(path, keep_file_open=True)
    _check_space(image, path)
    if image.ndim != 4:
        raise InputError(f"{path} is no time series of volumes: give a 4-D NIfTI file.")
    return image


def _check_space(image: object, path: Path) -> None:
    if not isinstance(image, Nifti1Pair):
        raise InputError(f"{path} is no NIfTI volume: give a .nii.gz file in MNI152 space.")
    told = re.search(r"_space-([A-Za-z0-9]+)", path.name)
    if told and not told[1].startswith("MNI152"):
        raise InputError(
            f"{path} is in the space {told[1]}, not in MNI152: run fMRIPrep with "
            "--output-spaces MNI152NLin6Asym:res-2."
        )
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise InputError(
            f"{path} does not say where its voxels lie (its sform and qform codes are 0): copy the "
            "header of the volume that it was made from, as fslcpgeom does."
        )


def volume_tr(image: Nifti1Pair) -> float | None:
    """Seconds between the frames of a 4-D image as its header says, None where it does not."""
    unit = image.header.get_xyzt_units()[1]
    return (
        told_tr(float(image.header.get_zooms()[3]) * _SECONDS[unit]) if unit in _SECONDS else None
    )
