"""The spaces that runs can be brought to: flat maps, parcel averages, the cortex of a volume."""

import os
from collections.abc import Sequence
from typing import Any

from data_tools.errors import InputError
from data_tools.readers.parcellation import read_parcellation
from data_tools.readers.volume_run import read_cortex
from data_tools.spaces.parcels import ParcelMap
from data_tools.spaces.space_map import SpaceMap
from data_tools.spaces.standard_maps import Pair, checksums, read_flat_map, surfaces_provenance
from data_tools.spaces.volume_map import build_volume_map

PathLike = str | os.PathLike


def read_space_map(
    *,
    parcels: Sequence[PathLike] | None = None,
    cortex: PathLike | None = None,
    surfaces: Pair | None = None,
    roi: Pair | None = None,
    patch_size: int = 16,
    space: str | None = None,
) -> SpaceMap:
    """The map to a space, made of files or of what ships with us.

    Args:
      parcels: the files of a parcellation, see `read_parcellation`.
      cortex: labels or a mask of the cortex in MNI152 space, for cubes of a volume.
      surfaces, roi, patch_size, space: of a flat map, see `read_flat_map`.

    Raises:
      InputError: more than one space is asked for, or a file cannot be used.
    """
    if (parcels is not None) + (cortex is not None) + (surfaces is not None or roi is not None) > 1:
        raise InputError("A store has one space: give only one of --parcels, --cortex, --surfaces.")
    if parcels is not None:
        return ParcelMap(read_parcellation(parcels))
    if cortex is not None:
        return build_volume_map(read_cortex(cortex))
    return read_flat_map(surfaces, roi, patch_size, space=space)


def space_provenance(
    *,
    parcels: Sequence[PathLike] | None = None,
    cortex: PathLike | None = None,
    surfaces: Pair | None = None,
    roi: Pair | None = None,
    space: str | None = None,
    names: bool = True,
) -> dict[str, Any]:
    """What `read_space_map` of the same arguments reads, for the provenance of a store.

    Args:
      parcels, cortex, surfaces, roi, space: as there.
      names: whether files are told by name too, or by their checksums alone.
    """
    if parcels is not None:
        return {"parcels": checksums(parcels, names)}
    if cortex is not None:
        return {"cortex": checksums([cortex], names)}
    return surfaces_provenance(surfaces, roi, space, names=names)
