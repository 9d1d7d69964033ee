"""Reads CIFTI dense time series: the cortex of both hemispheres, and voxels below it.

A file may be packed, by gzip or in an archive; then only its beginning is unpacked for the header.

Letters in array names: T frames, X vertices of a hemisphere, G voxels below the cortex.
"""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from data_tools.errors import InputError
from data_tools.readers.image_files import check_held, described_bytes, load_image
from data_tools.readers.surface_run import SurfaceHeader, SurfaceRun, told_tr

_NIFTI_HEADER = nibabel.Nifti2Header.sizeof_hdr
# That of 91,282 grayordinates has 2 MB.
_LONGEST_HEADER = 2**26
# A mesh of far more vertices than a file has values for would fill the memory with zeros.
_MOST_EMPTY, _FULL_ENOUGH = 2**29, 1 / 8
_CORTICES = ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")


def is_cifti(path: str | os.PathLike) -> bool:
    """Returns True if the file name is that of a CIFTI dense time series, gzipped or not."""
    return Path(path).name.lower().endswith((".dtseries.nii", ".dtseries.nii.gz"))


def open_cifti(path: Path, only_header: bool = False) -> Cifti2Image:
    """Opens a CIFTI-2 file; with `only_header` no data are unpacked.

    Raises:
      InputError: it is CIFTI-1.
    """
    try:
        if path.suffix.lower() == ".gz":
            return unpack_cifti(lambda n_bytes: _gunzip(path, n_bytes), only_header)
        return load_image(path)
    except ValueError as error:
        if "Only CIFTI-2" not in str(error):
            raise
        raise InputError(
            f"{path} is CIFTI-1: convert it with `wb_command -file-convert "
            "-cifti-version-convert OLD 2 NEW.dtseries.nii`."
        ) from error


def unpack_cifti(read: Callable[[int | None], bytes], only_header: bool) -> Cifti2Image:
    """Opens what `read` unpacks: the first bytes of a file, as many as asked for, or all of it."""
    n_bytes = None
    if only_header:
        offset = int(nibabel.Nifti2Header(read(_NIFTI_HEADER))["vox_offset"])
        n_bytes = min(offset, _LONGEST_HEADER)
    data = read(n_bytes)
    image = Cifti2Image.from_bytes(data)
    if not only_header:
        check_held(described_bytes(image), len(data))
    return image


def _gunzip(path: Path, n_bytes: int | None) -> bytes:
    with gzip.open(path) as file:
        return file.read(n_bytes)


def cifti_header(image: Cifti2Image, name: str) -> SurfaceHeader:
    """The header of an open CIFTI dense time series; errors call it by `name`.

    Raises:
      InputError: it is no dense time series, or lacks a cortex.
    """
    series, models = _cifti_axes(image, name)
    left, right = (models.nvertices.get(structure, 0) for structure in _CORTICES)
    for structure, n_vertices in zip(_CORTICES, (left, right), strict=True):
        if not n_vertices:
            side = structure.rsplit("_", 1)[-1].lower()
            raise InputError(f"{name} has no {side} cortex: give a run with both hemispheres.")
    # Any other unit leaves the TR unknown.
    tr = float(series.step) if series.unit.upper() == "SECOND" else None
    n_voxels, checksum = voxels_below(models)
    return SurfaceHeader(len(series), left, right, told_tr(tr), n_voxels, checksum)


def cifti_run(image: Cifti2Image, name: str, whole: bool = False) -> SurfaceRun:
    """The cortex of an open CIFTI dense time series; errors call it by `name`.

    Vertices that the file leaves out (the medial wall) are 0.

    Args:
      image: the open file.
      name: of it.
      whole: whether the voxels below the cortex are wanted too.

    Raises:
      InputError: it is no dense time series, or lacks a cortex.
    """
    header, (_, models) = cifti_header(image, name), _cifti_axes(image, name)
    left, right, voxels = split_grayordinates(image.dataobj, models, whole)
    checksum = header.voxels_sha256 if voxels is not None else ""
    return SurfaceRun(left, right, header.tr, voxels, checksum)


def split_grayordinates(
    data_TxI: np.ndarray, models: BrainModelAxis, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Values of grayordinates by place: left and right cortex, and with `whole` voxels below.

    `data_TxI`, in memory or not, has the columns that `models` describes.

    Returns:
      (T, X_left), (T, X_right) and (T, G) float32, or None in place of the last where there are no
      voxels, or none are wanted. Vertices that the file leaves out are 0.
    """
    sides, below = {}, []
    for structure, columns, model in models.iter_structures():
        if structure in _CORTICES:
            shape = (data_TxI.shape[0], models.nvertices[structure])
            empty = shape[0] * (shape[1] - len(model.vertex) / _FULL_ENOUGH) * 4
            if empty > _MOST_EMPTY:
                raise InputError(
                    f"The file has values for {len(model.vertex):,} of the {shape[1]:,} vertices "
                    "of a cortex, too few for a run: copy it again."
                )
            sides[structure] = np.zeros(shape, np.float32)
            sides[structure][:, model.vertex] = data_TxI[:, columns]
        elif whole and model.volume_mask.all():
            below.append(np.asarray(data_TxI[:, columns], np.float32))
    left, right = (sides[structure] for structure in _CORTICES)
    return left, right, np.concatenate(below, axis=1) if below else None


def voxels_below(models: BrainModelAxis) -> tuple[int, str]:
    """How many voxels there are below the cortex, and a checksum of where; 0 and "" for none."""
    checksum, count = hashlib.sha256(), 0
    for structure, _, model in models.iter_structures():
        if structure not in _CORTICES and model.volume_mask.all():
            checksum.update(structure.encode() + np.int32(model.voxel).tobytes())
            count += len(model.voxel)
    return count, checksum.hexdigest() if count else ""


def _cifti_axes(image: Cifti2Image, name: str) -> tuple[SeriesAxis, BrainModelAxis]:
    if not isinstance(image, Cifti2Image):
        raise InputError(f"{name} is not CIFTI-2: convert it with wb_command.")
    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if [type(axis) for axis in axes] != [SeriesAxis, BrainModelAxis]:
        raise InputError(f"{name} is no dense time series: give a .dtseries.nii file.")
    if image.shape != tuple(map(len, axes)):
        raise InputError(f"{name} has a header that contradicts itself: copy it again.")
    return axes[0], axes[1]
