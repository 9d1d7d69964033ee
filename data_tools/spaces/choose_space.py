"""The space of a store: a flat map, the averages of parcels, or the cortex of a volume."""

import argparse
import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Self

from data_tools.errors import InputError
from data_tools.flags import positive
from data_tools.readers.parcellation import read_parcellation
from data_tools.readers.volume_run import read_cortex
from data_tools.spaces.parcels import ParcelMap
from data_tools.spaces.space_map import SpaceMap
from data_tools.spaces.standard_maps import Pair, checksums, read_flat_map, surfaces_provenance
from data_tools.spaces.volume_map import build_volume_map

PathLike = str | os.PathLike


def add_space_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `SpaceFiles`, except `--space`."""
    add = parser.add_argument
    pair = {"nargs": 2, "metavar": ("LEFT", "RIGHT")}
    add("--surfaces", **pair, help="flat surfaces, GIFTI (default: those that ship with us)")
    add("--roi", **pair, help="vertices to keep: GIFTI or MGZ, values above 0")
    add("--parcels", nargs="+", metavar="FILE", help=".dlabel.nii, or LEFT RIGHT (.gii, .annot)")
    add("--cortex", metavar="FILE", help="take volumes: labels or mask of the cortex in MNI152")
    add("--patch-size", type=positive, default=16, help="side of a patch in pixels (%(default)s)")


@dataclasses.dataclass(frozen=True)
class SpaceFiles:
    """The files that define the space of a store.

    Attributes:
      parcels: the files of a parcellation, see `read_parcellation`.
      cortex: labels or a mask of the cortex in MNI152 space, for cubes of a volume.
      surfaces, roi, patch_size: of a flat map, see `read_flat_map`.
      space: the standard space of a flat map without surfaces.
    """

    parcels: Sequence[PathLike] | None = None
    cortex: PathLike | None = None
    surfaces: Pair | None = None
    roi: Pair | None = None
    patch_size: int = 16
    space: str | None = "fsLR-32k"

    @classmethod
    def of_flags(cls, args: argparse.Namespace) -> Self:
        """The files that a command line names."""
        files = cls(args.parcels, args.cortex, args.surfaces, args.roi, args.patch_size)
        if (files.parcels, files.cortex, files.surfaces or files.roi).count(None) < 2:
            raise InputError(
                "A store has one space: give only one of --parcels, --cortex, --surfaces."
            )
        return files

    @functools.cached_property
    def space_map(self) -> SpaceMap:
        """The map from runs to the space; InputError if a file cannot be used."""
        if self.parcels is not None:
            return ParcelMap(read_parcellation(self.parcels))
        if self.cortex is not None:
            return build_volume_map(read_cortex(self.cortex))
        return read_flat_map(self.surfaces, self.roi, self.patch_size, space=self.space)

    def provenance(self, names: bool = True) -> dict[str, Any]:
        """Checksums of the files, and with `names` their names, for the provenance of a store."""
        if self.parcels is not None:
            return {"parcels": checksums(self.parcels, names)}
        if self.cortex is not None:
            return {"cortex": checksums([self.cortex], names)}
        return surfaces_provenance(self.surfaces, self.roi, self.space, names=names)
