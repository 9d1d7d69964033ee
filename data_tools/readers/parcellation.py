"""Reads parcellations: which parcel each vertex, and each voxel below the cortex, belongs to.

A parcellation is a CIFTI `.dlabel.nii` or a pair of GIFTI label files. One that labels voxels below
the cortex is of all grayordinates (91,282 of fsLR-32k), any other of the surface alone (64,984
vertices): the two are never mixed up. Letters in array names: X vertices left, then right, then
voxels below the cortex.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis
from nibabel.gifti import GiftiImage

from data_tools.errors import InputError
from data_tools.readers.cifti import split_grayordinates, voxels_below
from data_tools.readers.surface_run import hemisphere, readable


@dataclasses.dataclass(frozen=True, eq=False)
class Parcellation:
    """Parcels of the cortex.

    Attributes:
      name: what it is called.
      labels: (X,) int32: 0 for none, or the number of a parcel from 1 in the order of `names`.
      names: of the parcels, in the order of their keys in the file.
      n_vertices: of the left and the right hemisphere, and of voxels if it has any.
      voxels_sha256: of the voxels, as in `SurfaceHeader`; "" without any.
    """

    name: str
    labels: np.ndarray
    names: tuple[str, ...]
    n_vertices: tuple[int, ...]
    voxels_sha256: str = ""

    @property
    def sha256(self) -> str:
        """Checksum of labels and names: the same for the same parcels in the same order."""
        checksum = hashlib.sha256(json.dumps(self.names).encode())
        checksum.update(np.ascontiguousarray(self.labels, "<i4").tobytes())
        return checksum.hexdigest()


def read_parcellation(paths: Sequence[str | os.PathLike]) -> Parcellation:
    """Reads a parcellation.

    The parcels are the keys above 0 that a vertex or voxel has, in ascending order. Where the files
    of two hemispheres use one key for different parcels, those of the left come first.

    Args:
      paths: one `.dlabel.nii`, or the GIFTI label files of the left and the right hemisphere.

    Raises:
      InputError: a file is missing, damaged or no parcellation, or has no parcel.
    """
    if len(paths) == 1:
        return _read_dlabel(Path(paths[0]))
    if len(paths) != 2:
        raise InputError(
            "A parcellation is a .dlabel.nii, or LEFT and RIGHT: give one or two files."
        )
    return _read_pair(*map(Path, paths))


def _read_dlabel(path: Path) -> Parcellation:
    with readable(path):
        image = nibabel.load(path)
        axes = [image.header.get_axis(i) for i in (0, 1)] if isinstance(image, Cifti2Image) else []
        if [type(axis) for axis in axes] != [LabelAxis, BrainModelAxis] or len(axes[0]) != 1:
            raise InputError(f"{path} is no parcellation: give a .dlabel.nii with one map.")
        labels, models = axes
        _check_whole(np.asarray(image.dataobj), path)
        sides = split_grayordinates(image.dataobj, models, whole=True)
        keys = [np.round(side[0]).astype(np.int64) for side in sides if side is not None]
        n_voxels, checksum = voxels_below(models)
        table = {key: name for key, (name, _) in labels.label[0].items()}
    n_vertices = (len(keys[0]), len(keys[1])) + ((n_voxels,) if n_voxels else ())
    return _parcellation(path, np.concatenate(keys), table, n_vertices, checksum)


def _read_pair(left: Path, right: Path) -> Parcellation:
    sides, tables = [], []
    for path, side in ((left, "left"), (right, "right")):
        if hemisphere(path.name) not in (None, side):
            raise InputError(f"{path} is not the {side} hemisphere: give LEFT, then RIGHT.")
        with readable(path):
            image = nibabel.load(path)
            if not isinstance(image, GiftiImage) or len(image.darrays) != 1:
                raise InputError(f"{path} is no parcellation: give a .label.gii with one map.")
            _check_whole(image.darrays[0].data, path)
            sides.append(np.round(image.darrays[0].data).astype(np.int64).reshape(-1))
            tables.append(image.labeltable.get_labels_as_dict())
    n_vertices = (len(sides[0]), len(sides[1]))
    shared = set(sides[0][sides[0] > 0]) & set(sides[1][sides[1] > 0])
    if shared:
        # The same keys in both: parcels of each side, as in atlases that number either alone.
        shift = max(side.max() for side in sides)
        sides[1][sides[1] > 0] += shift
        tables = [
            {key: f"L_{name}" for key, name in tables[0].items()},
            {key + shift: f"R_{name}" for key, name in tables[1].items()},
        ]
    names: dict[int, str] = {}
    for side, table in zip(sides, tables, strict=True):
        # A table may list parcels of the other side too, by other names.
        names |= {key: table[key] for key in np.unique(side).tolist() if key in table}
    return _parcellation(left, np.concatenate(sides), names, n_vertices)


def _check_whole(keys: np.ndarray, path: Path) -> None:
    if not np.isfinite(keys).all() or (np.round(keys) != keys).any():
        raise InputError(f"{path} has labels that are no whole numbers: give a parcellation.")


def _parcellation(
    path: Path,
    keys_X: np.ndarray,
    table: dict[int, str],
    n_vertices: tuple[int, ...],
    voxels_sha256: str = "",
) -> Parcellation:
    used = np.unique(keys_X[keys_X > 0])
    if not len(used):
        raise InputError(f"{path} has no parcel, no label above 0: give a parcellation.")
    labels = np.where(keys_X > 0, np.searchsorted(used, keys_X) + 1, 0).astype(np.int32)
    names = tuple(table.get(int(key)) or f"parcel {key}" for key in used)
    name = path.name
    for ending in (".gii", ".nii", ".label", ".dlabel"):
        name = name.removesuffix(ending)
    return Parcellation(name, labels, names, n_vertices, voxels_sha256)
