"""The geometries of published data: the mask of the published flat map, parcels by name.

The mask is read from the installed package `cortex_mae`, which is found, never imported.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files.npy import read_arrays
from data_tools.spaces.geometry import Geometry, load_geometry
from data_tools.spaces.pixel_grid import STANDARD_GRID

PACKAGE = "cortex_mae"
FLAT_SPACE = "flat-fsLR-32k"
# Valid pixels of the published flat map, and voxels of the published cortex in MNI152 2 mm.
FLAT_WIDTH, VOLUME_WIDTH = 77_763, 132_032
# Published parcellations, each a column a parcel.
PARCELS = {"schaefer400": 400, "schaefer1000": 1000, "schaefer400_tians3": 450, "a424": 424}
# No parcellation in use has more parcels, no picture of a brain as few pixels.
_MOST_PARCELS = 2000
_FILE = Path("resources") / "flat_pca_n8_224_560.npz"


def read_geometry(source: str | os.PathLike) -> Geometry:
    """A geometry by file or name.

    Args:
      source: a geometry.npz, a store or model directory that has one, "cortex_mae" for the mask of
        the published flat map in the installed package, or a published parcellation by name.

    Raises:
      InputError: it is not there, or damaged.
    """
    if source == PACKAGE:
        return published_flat_map()
    if source in PARCELS:
        return parcels(str(source), PARCELS[source])
    path = Path(source)
    return load_geometry(path / "geometry.npz" if path.is_dir() else path)


def geometry_of_width(width: int) -> Geometry:
    """The geometry of published data that come without one, told by their number of columns.

    Few columns are parcels, of a published parcellation if there is one with as many.
    """
    if width == FLAT_WIDTH:
        return published_flat_map()
    if width <= _MOST_PARCELS:
        names = {n_parcels: name for name, n_parcels in PARCELS.items()}
        return parcels(names.get(width, f"parcels-{width}"), width)
    what = "the published cortex volume" if width == VOLUME_WIDTH else "no published space"
    raise InputError(
        f"Data of {width:,} columns are of {what}: give --geometry of their space, see "
        "python -m data_tools.make_geometry --help."
    )


def parcels(space: str, n_parcels: int) -> Geometry:
    """The geometry of parcel averages of which nothing but the number is known."""
    return Geometry(space, np.ones((n_parcels, 1), bool), (1, 1))


def published_flat_map() -> Geometry:
    """The published flat map of fsLR in patches of 16 x 16 pixels."""
    path = package_file()
    if path is None:
        raise InputError(
            "The package cortex_mae is not installed here, and the mask of the published flat map "
            "is in it: pip install --no-deps cortex_mae, or give --geometry."
        )
    fields = read_arrays(path, "install cortex_mae again")
    if "components" not in fields or fields["components"].ndim != 3:
        raise InputError(f"{path} is damaged (no components): install cortex_mae again.")
    mask = (fields["components"] != 0).any(0)
    return Geometry(FLAT_SPACE, mask, (16, 16), STANDARD_GRID.bbox, STANDARD_GRID.pixel_size)


def package_file() -> Path | None:
    """The file of the installed package that holds the mask, or None."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    return None
