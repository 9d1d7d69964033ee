"""From a run to the frames of a space: the form that all maps share.

Flat maps (`flat_map`), parcel averages (`parcels`) and the cortex of a volume (`volume_map`) are
such maps. Letters in array names: T frames, X values of a run, V valid pixels of a geometry.
"""

import abc
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from data_tools.spaces.geometry import Geometry

Sample = Callable[[np.ndarray], np.ndarray]

# Frames sampled at a time: keeps the temporary copies small beside the result.
_FRAME_BLOCK = 16


class SpaceMap(abc.ABC):
    """The map from the X values of a run to the V valid pixels of a geometry.

    Attributes:
      geometry: valid pixels and patch grid.
      kept: (X,) bool: the values that the map uses.
      n_vertices: what runs must have: vertices left and right, then voxels; shorter where the rest
        does not matter.
      voxels_sha256: of the voxels below the cortex, "" where they do not matter.
      reading: arguments for the function that reads a run.
      default_chain: of `Recipe`, what published data of such spaces were made with.
    """

    geometry: Geometry
    kept: np.ndarray
    n_vertices: tuple[int, ...] = ()
    voxels_sha256: str = ""
    reading: Mapping[str, Any] = types.MappingProxyType({})
    default_chain: str = "pixel"

    @abc.abstractmethod
    def without(self, lost_X: np.ndarray) -> tuple[Sample, np.ndarray]:
        """How to sample a run that lacks some values.

        Args:
          lost_X: bool, the values without data.

        Returns:
          A function from (T, X) values to (T, V) at the pixels, and (V,) bool, the pixels that
          have no data.
        """

    @abc.abstractmethod
    def refusal(self, space: str) -> str:
        """The end of a sentence that begins with a run being on another space: what to do."""


def sample_linear(weights_VxX: sparse.csr_matrix, series_TxX: np.ndarray) -> np.ndarray:
    """(T, X) values of a run -> (T, V), weighted sums of them."""
    dtype = np.result_type(weights_VxX.dtype, series_TxX.dtype)
    pixels = np.empty((len(series_TxX), weights_VxX.shape[0]), dtype)
    for start in range(0, len(series_TxX), _FRAME_BLOCK):
        block = slice(start, start + _FRAME_BLOCK)
        pixels[block] = (weights_VxX @ series_TxX[block].T).T
    return pixels
