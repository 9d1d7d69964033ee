"""Reads parcellations: which parcel each vertex, and each voxel below the cortex, belongs to.

A parcellation is a CIFTI `.dlabel.nii`, or a pair of GIFTI label files or of FreeSurfer's `.annot`.
One that labels voxels below the cortex is of all grayordinates (91,282 of fsLR-32k), any other of
the surface alone (64,984 vertices): the two are never mixed up. Letters in array names: X vertices
left, then right, then voxels below the cortex.
"""

import dataclasses
import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis
from nibabel.freesurfer import read_annot
from nibabel.gifti import GiftiImage

from data_tools.errors import InputError
from data_tools.readers.cifti import split_grayordinates, voxels_below
from data_tools.readers.image_files import load_image
from data_tools.readers.surface_run import hemisphere, readable

# Labels of what is no cortex, or in no parcel, alone or after a prefix such as "L_".
_NO_PARCEL = re.compile(
    r"(.*[^a-z])?(\?+|unknown|background|none|corpus[ _.-]?callosum|medial[ _.-]?wall)",
    re.IGNORECASE,
)


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

    The parcels are the keys above 0 that a vertex or voxel has, in ascending order. Where the table
    counts from 1 without a gap, as that of Schaefer's parcels, one that is too small for the mesh
    is a column too, without data. Labels such as "???" and the medial wall are no parcels. Where
    the files of two hemispheres use one key for different parcels, those of the left come first.

    Args:
      paths: one `.dlabel.nii`, or the `.label.gii` or `.annot` of the left and the right
        hemisphere.

    Raises:
      InputError: a file is missing, damaged or no parcellation, or has no parcel.
    """
    if len(paths) == 1 and not _is_annot(paths[0]):
        return _read_dlabel(Path(paths[0]))
    if len(paths) != 2:
        raise InputError(
            "A parcellation is a .dlabel.nii, or LEFT and RIGHT: give one or two files."
        )
    return _read_pair(*map(Path, paths))


def _is_annot(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() == ".annot"


def _read_dlabel(path: Path) -> Parcellation:
    with readable(path):
        image = load_image(path)
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
    keys_X = np.concatenate(keys)
    return _parcellation(path, keys_X, _name_parcels(keys_X, table), n_vertices, checksum)


def _read_pair(left: Path, right: Path) -> Parcellation:
    sides, tables = [], []
    for path, side in ((left, "left"), (right, "right")):
        if hemisphere(path.name) not in (None, side):
            raise InputError(f"{path} is not the {side} hemisphere: give LEFT, then RIGHT.")
        with readable(path):
            keys, table = (_read_annot if _is_annot(path) else _read_label)(path)
        sides.append(keys)
        tables.append(table)
    n_vertices = (len(sides[0]), len(sides[1]))
    keys, own = np.concatenate(sides), list(map(_name_parcels, sides, tables))
    shared = set(sides[0].tolist()) & set(sides[1].tolist()) & own[0].keys() & own[1].keys()
    if shared or _is_annot(left):
        # The same keys in both: parcels of each side, as in atlases that number either alone.
        shift = max([sides[0].max(), *own[0]])
        keys[n_vertices[0] :] += np.where(sides[1] > 0, shift, 0)
        names = {key: f"L_{name}" for key, name in own[0].items()}
        names |= {key + shift: f"R_{name}" for key, name in own[1].items()}
        return _parcellation(left, keys, names, n_vertices)
    table = tables[1] | tables[0]
    for side, own_table in zip(sides, tables, strict=True):
        # A table may list parcels of the other side too, by other names.
        table |= {key: own_table[key] for key in np.unique(side).tolist() if key in own_table}
    return _parcellation(left, keys, _name_parcels(keys, table), n_vertices)


def _read_label(path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """Keys of the vertices and table of names of a GIFTI label file."""
    image = load_image(path)
    if not isinstance(image, GiftiImage) or len(image.darrays) != 1:
        raise InputError(f"{path} is no parcellation: give a .label.gii with one map.")
    _check_whole(image.darrays[0].data, path)
    keys = np.round(image.darrays[0].data).astype(np.int64).reshape(-1)
    return keys, image.labeltable.get_labels_as_dict()


def _read_annot(path: Path) -> tuple[np.ndarray, dict[int, str]]:
    """The same of FreeSurfer's `.annot`, whose first label is as good as any: it becomes key 1."""
    _check_annot(path.read_bytes())
    labels, colours, names = read_annot(path)
    table = {i + 1: name.decode("utf-8", "replace") for i, name in enumerate(names)}
    taken = {0: "no parcel"}  # black
    for name, colour in zip(table.values(), colours[:, -1].tolist(), strict=True):
        if not name or _NO_PARCEL.fullmatch(name):
            continue
        if taken.setdefault(colour, name) != name:
            raise InputError(
                f"{path} has one colour for {taken[colour]} and {name}, so nobody can tell them "
                "apart: give each its own."
            )
    return labels.astype(np.int64) + 1, table


def _check_annot(data: bytes) -> None:
    """Raises ValueError where counts in an `.annot` are larger than it; numbers are big-endian."""

    def number(place: int) -> int:
        if not 0 <= place <= len(data) - 4:
            raise ValueError("its counts are larger than the file")
        return struct.unpack_from(">i", data, place)[0]

    place = 4 + 8 * number(0) + 4  # vertices and labels, and whether there is a table
    entries = number(place)
    place += 4
    if entries < 0:  # a version in place of a number
        if number(place) > len(data):
            raise ValueError("its counts are larger than the file")
        place += 4 + 4 + number(place + 4)  # size of the table, and the name of its file
        entries = number(place)
        place += 4
        for _ in range(entries):
            place += 8 + number(place + 4) + 16  # place in the table, name, colour
            number(place - 4)
    elif entries > len(data):
        raise ValueError("its counts are larger than the file")


def _check_whole(keys: np.ndarray, path: Path) -> None:
    if not np.isfinite(keys).all() or (np.round(keys) != keys).any():
        raise InputError(f"{path} has labels that are no whole numbers: give a parcellation.")


def _name_parcels(keys_X: np.ndarray, table: dict[int, str]) -> dict[int, str]:
    """The keys of parcels, in ascending order, and their names."""
    used = set(np.unique(keys_X[keys_X > 0]).tolist())
    named = {key for key, name in table.items() if key > 0 and name}
    empty = named - used
    if used and named and len(named) == max(named):
        # Many labels at the end of a table are of structures that the file does not have.
        last = max(named if 4 * len(empty) <= len(named) else used)
        used |= {key for key in empty if key <= last}
    names = {key: table.get(key) or f"parcel {key}" for key in sorted(used)}
    return {key: name for key, name in names.items() if not _NO_PARCEL.fullmatch(name)}


def _parcellation(
    path: Path,
    keys_X: np.ndarray,
    names: dict[int, str],
    n_vertices: tuple[int, ...],
    voxels_sha256: str = "",
) -> Parcellation:
    order = np.array(list(names), np.int64)
    is_parcel = np.isin(keys_X, order)
    if not is_parcel.any():
        raise InputError(f"{path} has no parcel, no label above 0: give a parcellation.")
    labels = np.where(is_parcel, np.searchsorted(order, keys_X) + 1, 0).astype(np.int32)
    name = path.name
    for ending in (".gii", ".nii", ".label", ".dlabel", ".annot"):
        name = name.removesuffix(ending)
    return Parcellation(name, labels, tuple(names.values()), n_vertices, voxels_sha256)
