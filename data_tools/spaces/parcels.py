"""Parcel averages as a space: the mean of each parcel is a patch of one value.

Vertices without data are left out of the mean, and a parcel without any is missing.
Letters in array names: T frames, X vertices left, then right, then voxels below the cortex,
R parcels.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy import sparse

from data_tools.readers.parcellation import Parcellation
from data_tools.readers.surface_run import space_name
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.space_map import Sample, SpaceMap, sample_linear
from data_tools.spaces.standard_maps import STANDARD_SPACES, standard_flat_map


@dataclasses.dataclass(frozen=True, eq=False)
class ParcelMap(SpaceMap):
    """The map from vertices and voxels to the averages of parcels; see `SpaceMap`.

    Attributes:
      parcellation: of the parcels.
    """

    parcellation: Parcellation

    @property
    def n_vertices(self) -> tuple[int, ...]:
        """Of the left and the right hemisphere, and voxels if the parcellation has any."""
        return self.parcellation.n_vertices

    @property
    def voxels_sha256(self) -> str:
        """Of the voxels below the cortex that runs must have."""
        return self.parcellation.voxels_sha256

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments for the function that reads a run."""
        return {"whole": True} if len(self.n_vertices) > 2 else {}

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """(X,) bool: what is in a parcel."""
        return self.parcellation.labels > 0

    @functools.cached_property
    def geometry(self) -> Geometry:
        """A frame of (R, 1), each parcel a patch, shown on the flat map where there is one."""
        n_parcels = len(self.parcellation.names)
        return Geometry(
            self.parcellation.name,
            np.ones((n_parcels, 1), bool),
            (1, 1),
            regions=self.parcellation.names,
            source_sha256=self.parcellation.sha256,
            picture=_picture(self.parcellation),
        )

    def without(self, lost_X: np.ndarray) -> tuple[Sample, np.ndarray]:
        """How to sample a run that lacks vertices; see `SpaceMap`."""
        used = np.flatnonzero(self.kept & ~lost_X)
        parcel = self.parcellation.labels[used] - 1
        count_R = np.bincount(parcel, minlength=len(self.parcellation.names))
        weights_RxX = sparse.csr_matrix(
            (1 / count_R[parcel], (parcel, used)), shape=(len(count_R), len(lost_X))
        )
        return functools.partial(sample_linear, weights_RxX), count_R == 0

    def refusal(self, space: str) -> str:
        """What to do about a run on another mesh."""
        return (
            f"the parcellation '{self.parcellation.name}' labels {space_name(*self.n_vertices)}: "
            "give a parcellation of the mesh of the runs."
        )


def _picture(parcellation: Parcellation) -> np.ndarray | None:
    """(H', W') int32: the parcel at each pixel of the flat map, None where there is no such map."""
    n_left, n_right = parcellation.n_vertices[:2]
    space = space_name(n_left, n_right)
    if space not in STANDARD_SPACES:
        return None
    flat_map = standard_flat_map(space)
    picture = np.full(flat_map.geometry.mask.shape, -1, np.int32)
    labels = parcellation.labels[: n_left + n_right]
    picture[flat_map.geometry.mask] = flat_map.sample_nearest(labels) - 1
    return picture
