"""Simulated runs on fsLR-32k, the space of CIFTI releases.

The simulated brain lives on the vertices of fsaverage5; a vertex of fsLR-32k has the series of the
closest one. Three neighbours of fsLR-32k share one vertex on average and are exactly alike, which
is smoother than real data below 4 mm and the same above. Letters: T frames, X vertices.
"""

import functools

import numpy as np
from nibabel.cifti2 import BrainModelAxis

from data_tools.readers.volume_run import MNI_SHAPE
from data_tools.simulate.trees.forms import cortex_axis
from data_tools.spaces.standard_maps import nearest_fsaverage5, standard_cortex

# What files have beside the cortex. The real structures have 31,870 voxels; readers of the cortex
# have to get past them, and a few will do.
_VOXELS = 6
_STRUCTURES = ("ACCUMBENS_LEFT", "ACCUMBENS_RIGHT", "BRAIN_STEM", "THALAMUS_LEFT", "THALAMUS_RIGHT")
_MNI_2MM = np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


@functools.cache
def grayordinates() -> BrainModelAxis:
    """The CIFTI axis: left cortex, right cortex, and a few voxels of some structures below."""
    rows, columns = np.divmod(np.arange(len(_STRUCTURES) * _VOXELS), _VOXELS)
    return cortex_axis(standard_cortex("fsLR-32k")) + BrainModelAxis(
        [f"CIFTI_STRUCTURE_{_STRUCTURES[row]}" for row in rows],
        voxel=np.stack([40 + columns, np.full_like(rows, 60), 30 + rows], axis=1),
        affine=_MNI_2MM,
        volume_shape=MNI_SHAPE,
    )


def to_grayordinates(series_TxX: np.ndarray) -> np.ndarray:
    """(T, 20484) series of fsaverage5 -> (T, grayordinates) in the order of the axis.

    The voxels have the series of some vertices.
    """
    cortex = nearest_fsaverage5()[np.concatenate(standard_cortex("fsLR-32k"))]
    deep = cortex[:: len(cortex) // (len(_STRUCTURES) * _VOXELS)][: len(_STRUCTURES) * _VOXELS]
    return series_TxX[:, np.concatenate([cortex, deep])]
