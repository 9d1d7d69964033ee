"""The flat maps at hand: the standard ones, which need no download, and those of given files.

There are two standard maps. That of fsaverage5 is made of the flat surfaces inside nilearn. That of
fsLR-32k, the space of HCP, UK Biobank and fMRIPrep CIFTI, is made on the same surfaces: our package
data say for every vertex of fsLR-32k where on fsaverage5 it lies (see `data/README.md`). The same
place of the cortex is therefore at the same pixel of both.
"""

import functools
import hashlib
import importlib.resources
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from data_tools.errors import InputError
from data_tools.readers.surfaces import SPACES, read_flat_surface, read_roi
from data_tools.spaces.flat_map import FlatMap, build_flat_map

STANDARD_SPACES = ("fsaverage5", "fsLR-32k")

Pair = tuple[str | os.PathLike, str | os.PathLike]
Surface = tuple[np.ndarray, np.ndarray]

_FSAVERAGE5_CORTEX = Path(__file__).parent / "data" / "fsaverage5_cortex.npz"
_FSLR = Path(__file__).parent / "data" / "fsLR_32k_flat.npz"


def standard_flat_map(space: str, patch_size: int = 16) -> FlatMap:
    """The flat map of the cortex of a standard space, without the medial wall; built once.

    Args:
      space: "fsaverage5", 10,242 vertices a hemisphere, gives 77,609 valid pixels and 363 cortical
        patches of 16 x 16; "fsLR-32k", 32,492 vertices a hemisphere, gives 78,812 and 365.
      patch_size: side of a patch in pixels.

    Raises:
      InputError: the space is no standard one, or the patches do not divide the frame.
    """
    return _standard_flat_map(space, patch_size)


@functools.cache
def _standard_flat_map(space: str, patch_size: int) -> FlatMap:
    left, right = standard_surfaces(space)
    cortex = standard_cortex(space)
    return build_flat_map(left, right, *cortex, space=f"flat-{space}", patch_size=patch_size)


def read_flat_map(
    surfaces: Pair | None = None,
    rois: Pair | None = None,
    patch_size: int = 16,
    space: str = "fsaverage5",
) -> FlatMap:
    """Builds the flat map of given files, or of a standard space.

    Args:
      surfaces: the left and right flat surface as GIFTI; None takes the standard ones of `space`.
      rois: the left and right region of interest, GIFTI or MGZ with values above 0 in it; None
        takes all of the given surfaces, and the cortex of the standard ones.
      patch_size: side of a patch in pixels.
      space: the standard space. Given surfaces name their space by their number of vertices.
    """
    if surfaces is None and rois is None:
        return standard_flat_map(space, patch_size)
    if surfaces is None:
        left, right = standard_surfaces(space)
    else:
        left, right = (read_flat_surface(path) for path in surfaces)
        n_left, n_right = len(left[0]), len(right[0])
        space = SPACES.get(n_left if n_left == n_right else -1, f"{n_left}-{n_right}")
    masks = [read_roi(path) for path in rois] if rois else (None, None)
    return build_flat_map(left, right, *masks, space=f"flat-{space}", patch_size=patch_size)


def surfaces_provenance(
    surfaces: Pair | None = None,
    rois: Pair | None = None,
    space: str = "fsaverage5",
    names: bool = True,
) -> dict[str, Any]:
    """Checksums of the files that `read_flat_map` of these arguments reads, and with `names` names.

    Returns:
      {"surfaces": [{"file", "sha256"}, ...], "roi": [{"file", "sha256"}, ...] or None}, files
      without their directories, which say little elsewhere. A `roi` of None means all vertices.
    """
    if surfaces is None:
        _check_standard(space)
        surfaces, cortex = fsaverage5_surfaces(), _FSAVERAGE5_CORTEX
        if space == "fsLR-32k":
            surfaces, cortex = (*surfaces, _FSLR), _FSLR
        rois = rois or (cortex,)
    return {
        "surfaces": checksums(surfaces, names),
        "roi": checksums(rois, names) if rois else None,
    }


def standard_surfaces(space: str) -> tuple[Surface, Surface]:
    """Points (X, 3) float64 in mm and triangles (F, 3) int32 of the flat surfaces, left and right.

    A vertex whose z is not 0 is not on the flat surface: it lies in a part that was cut away.
    """
    _check_standard(space)
    fsaverage5 = _fsaverage5_meshes("flat")
    if space == "fsaverage5":
        return tuple(fsaverage5)
    triangles = np.cumsum(_fslr("triangle_steps"), axis=1, dtype=np.int32).T
    points = _carry_to_fslr([points for points, _ in fsaverage5])
    return (points[0], triangles), (points[1], triangles)


@functools.cache
def standard_cortex(space: str) -> tuple[np.ndarray, np.ndarray]:
    """Cortex without the medial wall, (X,) bool for the left and the right hemisphere.

    Its source is told in `data/README.md`.

    Raises:
      InputError: the space is no standard one.
    """
    _check_standard(space)
    if space == "fsaverage5":
        with np.load(_FSAVERAGE5_CORTEX) as data:
            packed, n_vertices = (data["left"], data["right"]), int(data["n_vertices"])
    else:
        packed, n_vertices = _fslr("cortex"), _fslr("face").shape[1]
    left, right = (np.unpackbits(bits, count=n_vertices).astype(bool) for bits in packed)
    return left, right


def fsaverage5_surfaces() -> tuple[Path, Path]:
    """Paths of the left and right fsaverage5 flat surfaces in the installed nilearn."""
    return fsaverage5_file("flat_left.gii.gz"), fsaverage5_file("flat_right.gii.gz")


def fsaverage5_file(name: str) -> Path:
    """Path of a file of fsaverage5 in the installed nilearn, such as "sphere_left.gii.gz"."""
    # Files of the package are named rather than fetched: nothing here may touch the network.
    return Path(str(importlib.resources.files("nilearn"))) / "datasets/data/fsaverage5" / name


def _fsaverage5_meshes(kind: str) -> list[Surface]:
    paths = (fsaverage5_file(f"{kind}_{side}.gii.gz") for side in ("left", "right"))
    return [read_flat_surface(path) for path in paths]


@functools.cache
def fsaverage5_middle() -> list[Surface]:
    """Points and triangles of fsaverage5 half way through the cortex, left and right, in mm."""
    depths = zip(_fsaverage5_meshes("white"), _fsaverage5_meshes("pial"), strict=True)
    return [((white + pial) / 2, triangles) for (white, _), (pial, triangles) in depths]


@functools.cache
def nearest_fsaverage5() -> np.ndarray:
    """(64984,) int32: the closest cortical vertex of fsaverage5 for each vertex of fsLR-32k.

    `series_TxX[:, nearest_fsaverage5()]` carries the series of fsaverage5 to fsLR-32k; in both
    spaces the left comes first. Closest is on the sphere; medial wall vertices of fsLR-32k get a
    cortical vertex as well.
    """
    spheres = _fsaverage5_meshes("sphere")
    places = _carry_to_fslr([points for points, _ in spheres])
    nearest, first = [], 0
    for (points, _), cortex, place in zip(
        spheres, standard_cortex("fsaverage5"), places, strict=True
    ):
        vertices = np.flatnonzero(cortex)
        nearest.append(first + vertices[cKDTree(points[vertices]).query(place)[1]])
        first += len(points)
    return np.concatenate(nearest).astype(np.int32)


def _carry_to_fslr(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(10242, C) values at the vertices of fsaverage5 -> (32492, C) at those of fsLR-32k, a side.

    Linear in the triangle of fsaverage5 that holds the vertex.
    """
    first_two = _fslr("thousandths") / 1000
    weights = np.concatenate([first_two, 1 - first_two.sum(-1, keepdims=True)], axis=-1)
    # The flat surfaces lack the triangles that were cut: the spheres have all of them.
    return [
        np.einsum("xk,xkc->xc", weights[side], values[side][triangles[_fslr("face")[side]]])
        for side, (_, triangles) in enumerate(_fsaverage5_meshes("sphere"))
    ]


@functools.cache
def _fslr(name: str) -> np.ndarray:
    """An array of the package data of fsLR-32k; the script that made them says what is in them."""
    with np.load(_FSLR) as data:
        return data[name]


def checksums(paths: Sequence[str | os.PathLike], names: bool) -> list[dict[str, str]]:
    """The SHA-256 of files, and with `names` what they are called, without directories."""
    return [
        ({"file": Path(path).name} if names else {})
        | {"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
        for path in paths
    ]


def _check_standard(space: str) -> None:
    if space not in STANDARD_SPACES:
        raise InputError(
            f"There is no standard flat map of '{space}', only of {' and '.join(STANDARD_SPACES)}: "
            "give its flat surfaces with --surfaces=LEFT RIGHT [--roi=LEFT RIGHT]."
        )
