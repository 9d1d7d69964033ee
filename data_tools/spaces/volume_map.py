"""The cortex of a volume as a space: cubes of voxels in MNI152 space, one a token row.

The grid of 2 mm is padded at its ends to multiples of 8 voxels and cut into cubes of 8 x 8 x 8;
those with more than a tenth of cortex are kept, and their cortical voxels are the valid pixels of a
frame of (cubes, 512). Cubes, and voxels in them, are in the array order (Z, Y, X). A cortex of
Schaefer's 400 parcels gives the published 465 x 512 (arXiv 2510.13768, "mni_cortex").
Letters in array names: T frames, Z x Y x X voxels, V voxels of the cortex, K cubes.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from data_tools.errors import InputError
from data_tools.readers.volume_run import MNI_AFFINE
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.space_map import Sample, SpaceMap
from data_tools.spaces.standard_maps import fsaverage5_middle, standard_flat_map

SPACE = "mni_cortex"
_CUBE = 8
_LEAST_CORTEX = 0.10
# A vertex further than this from every voxel is not shown, in mm.
_FARTHEST = 6.0
# fsaverage lies in MNI305; to MNI152 in mm (FreeSurfer wiki, CoordinateSystems).
_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeMap(SpaceMap):
    """The map from the voxels of the cortex to the cubes that are kept; see `SpaceMap`.

    Attributes:
      geometry: of the cubes.
      cortex: (Z, Y, X) bool, which voxels runs are read at.
      kept: (V,) bool, the voxels that lie in a cube that is kept.
    """

    geometry: Geometry
    cortex: np.ndarray
    kept: np.ndarray

    # Runs are brought to the grid when they are read: they need no numbers of vertices.

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments for the function that reads a run."""
        return {"cortex_ZxYxX": self.cortex}

    def without(self, lost_X: np.ndarray) -> tuple[Sample, np.ndarray]:
        """How to sample a run that lacks voxels; see `SpaceMap`."""
        place = self.geometry.columns[self.geometry.mask]
        return lambda series_TxV: series_TxV[:, place], lost_X[place]

    def refusal(self, space: str) -> str:
        """What to do about a run that is no volume."""
        return f"the space is '{self.geometry.space}': give NIfTI volumes in MNI152 space."


def build_volume_map(cortex_ZxYxX: np.ndarray) -> VolumeMap:
    """The map of a cortex on the grid of 2 mm."""
    n_voxels = int(cortex_ZxYxX.sum())
    column = np.full(cortex_ZxYxX.shape, -1, np.int32)
    column[cortex_ZxYxX] = np.arange(n_voxels)
    columns_Kx512 = cut_cubes(column)
    is_cortex = columns_Kx512 >= 0
    enough = is_cortex.mean(1) > _LEAST_CORTEX
    if not enough.any():
        raise InputError("No cube of the volume holds enough cortex: give a mask of the cortex.")
    columns = columns_Kx512[enough]
    mask = columns >= 0
    kept = np.zeros(n_voxels, bool)
    kept[columns[mask]] = True
    geometry = Geometry(
        SPACE,
        mask,
        (1, _CUBE**3),
        source_sha256=hashlib.sha256(np.packbits(cortex_ZxYxX).tobytes()).hexdigest(),
        picture=_picture(cortex_ZxYxX, columns),
        columns=columns,
        n_columns=n_voxels,
    )
    return VolumeMap(geometry, cortex_ZxYxX, kept)


def cut_cubes(volume_ZxYxX: np.ndarray) -> np.ndarray:
    """(Z, Y, X) int -> (K, 512), padded with -1 at the ends; cubes and voxels in raster order."""
    padded = np.pad(volume_ZxYxX, [(0, -n % _CUBE) for n in volume_ZxYxX.shape], constant_values=-1)
    z, y, x = (n // _CUBE for n in padded.shape)
    cubes = padded.reshape(z, _CUBE, y, _CUBE, x, _CUBE).transpose(0, 2, 4, 1, 3, 5)
    return cubes.reshape(-1, _CUBE**3)


def _picture(cortex_ZxYxX: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(H', W') int32: the place on the frame whose voxel is nearest to each pixel of the flat map.

    A pixel shows the voxel nearest to the middle of the cortical sheet at its vertex of fsaverage5.
    """
    flat_map = standard_flat_map("fsaverage5")
    # Half way through the cortex at the vertices of fsaverage5, in mm of MNI152.
    middles = np.concatenate([points for points, _ in fsaverage5_middle()])
    middles = middles @ _TO_MNI152[:, :3].T + _TO_MNI152[:, 3]
    z, y, x = np.nonzero(cortex_ZxYxX)
    voxels = np.column_stack([x, y, z]) @ MNI_AFFINE[:3, :3].T + MNI_AFFINE[:3, 3]
    places = np.flatnonzero(columns.reshape(-1) >= 0)
    voxels = voxels[columns.reshape(-1)[places]]
    distance, nearest = cKDTree(voxels).query(middles)
    place = np.where(distance <= _FARTHEST, places[nearest], -1)
    picture = np.full(flat_map.geometry.mask.shape, -1, np.int32)
    picture[flat_map.geometry.mask] = flat_map.sample_nearest(place)
    return picture
