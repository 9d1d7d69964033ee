"""Reads CIFTI dense time series: the cortex of both hemispheres.

Letters in array names: T frames, X vertices of a hemisphere.
"""

import os
from pathlib import Path

import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from data_tools.errors import InputError
from data_tools.surface_run import SurfaceHeader, SurfaceRun, told_tr

_CORTICES = ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")


def is_cifti(path: str | os.PathLike) -> bool:
    """Whether the name is that of a CIFTI dense time series."""
    return Path(path).name.lower().endswith(".dtseries.nii")


def cifti_header(image: Cifti2Image, name: str) -> SurfaceHeader:
    """The header of an open CIFTI dense time series; errors call it by `name`.

    Raises:
      InputError: it is no dense time series, or lacks a cortex.
    """
    series, models = _cifti_axes(image, name)
    left, right = (models.nvertices.get(structure, 0) for structure in _CORTICES)
    for structure, n_vertices in zip(_CORTICES, (left, right), strict=True):
        if not n_vertices:
            raise _no_cortex(name, structure)
    # Any other unit leaves the TR unknown.
    tr = float(series.step) if series.unit.upper() == "SECOND" else None
    return SurfaceHeader(len(series), left, right, told_tr(tr))


def cifti_run(image: Cifti2Image, name: str) -> SurfaceRun:
    """The cortex of an open CIFTI dense time series; errors call it by `name`.

    Vertices that the file leaves out (the medial wall) are 0.

    Raises:
      InputError: it is no dense time series, or lacks a cortex.
    """
    header, (_, models) = cifti_header(image, name), _cifti_axes(image, name)
    sides = {}
    for structure, columns, model in models.iter_structures():
        if structure in _CORTICES:
            sides[structure] = np.zeros((header.n_frames, models.nvertices[structure]), np.float32)
            sides[structure][:, model.vertex] = image.dataobj[:, columns]
    return SurfaceRun(*(sides[structure] for structure in _CORTICES), header.tr)


def _cifti_axes(image: Cifti2Image, name: str) -> tuple[SeriesAxis, BrainModelAxis]:
    if not isinstance(image, Cifti2Image):
        raise InputError(f"{name} is not CIFTI-2: convert it with wb_command.")
    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if [type(axis) for axis in axes] != [SeriesAxis, BrainModelAxis]:
        raise InputError(f"{name} is no dense time series: give a .dtseries.nii file.")
    return axes[0], axes[1]


def _no_cortex(name: str, structure: str) -> InputError:
    side = structure.rsplit("_", 1)[-1].lower()
    return InputError(f"{name} has no {side} cortex: give a run with both hemispheres.")
