"""From the volumes of the Natural Scenes Dataset to fsLR-32k: what it takes, and the commands.

The mapping is that of nsdcode (`data_tools.nsd_volume`) and of Connectome Workbench, with spheres
of the HCP pipelines. Nothing is run here: everything that the commands need is checked, and they
are written as a shell script, run by run, without those that are mapped already.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.nsd_volume import SIDES, transforms
from data_tools.releases.nsd import find_designs
from data_tools.releases.root import nothing_found, open_root
from data_tools.selection import chooser

_VOLUMES = "nsddata_timeseries/ppdata/{subject}/func1mm/timeseries"
_DESIGNS = "nsddata_timeseries/ppdata/subjNN/func1mm/design"
_MAPPED = "32k_fs_LR/timeseries"
_NAME = re.compile(r"timeseries_session\d+_run\d+\.nii\.gz")
_TEMPLATES = "global/templates/standard_mesh_atlases/resample_fsaverage"


def volume_recipe(
    root: str,
    mapped: Path,
    templates: Path,
    flags: Sequence[str] = (),
    *,
    designs: str | None = None,
    subjects: str | None = None,
) -> tuple[str, list[str]]:
    """The shell script that brings a release of volumes to a store.

    Args:
      root: top of the release.
      mapped: directory for the time series on fsLR-32k.
      templates: the directory resample_fsaverage of the HCP pipelines.
      flags: of the conversion at its end, but for --input and --designs.
      designs: directory of the designs, where they are not in the release.
      subjects: which to take, see `selection.chooser`.

    Returns:
      The script, and remarks.

    Raises:
      InputError: there is no run, or something that the commands open is missing.
    """
    top, take = open_root(root), chooser(subjects)
    runs = [
        (path.parts[-4], path)
        for path in sorted(top.glob(f"{_VOLUMES.format(subject='subj[0-9][0-9]')}/*.nii.gz"))
        if _NAME.fullmatch(path.name) and take(path.parts[-4])
    ]
    if not runs:
        place = _VOLUMES.format(subject="subjNN")
        raise nothing_found(top, f"{place}/timeseries_sessionNN_runNN.nii.gz")
    names = sorted({subject for subject, _ in runs})
    places = [transforms(name, side) for name in names for side in SIDES]
    files = [top / file for depths, fsaverage in places for file in (*depths, fsaverage)]
    _check(files, "nsddata/ppdata of NSD")
    pairs = {side: _spheres(side, templates.absolute()) for side in SIDES}
    _check([file for files in pairs.values() for file in files], f"{_TEMPLATES} of HCPpipelines")
    mapped, blocks, n_done = mapped.absolute(), [], 0
    for subject, path in runs:
        stem = path.name.removesuffix(".nii.gz")
        files = {side: mapped / subject / _MAPPED / f"{stem}.{side}.func.gii" for side in SIDES}
        if all(file.is_file() for file in files.values()):
            n_done += 1
            continue
        blocks += [_block(top, subject, path, side, files[side], pairs[side]) for side in SIDES]
    shown = top if designs is None else open_root(designs)
    last = ["python", "-m", "data_tools.convert_nsd", f"--input={mapped}", f"--designs={shown}"]
    last += flags
    script = "\n\n".join(["#!/bin/sh\nset -e", *blocks, shlex.join(last)]) + "\n"
    remarks = [f"Runs to map: {len(runs) - n_done}; mapped already: {n_done}."]
    told = {name: find_designs(shown, name) for name in names}
    if without := sum(_design(path) not in told[subject] for subject, path in runs):
        remarks.append(
            f"Runs without a design, so without events: {without} of {len(runs)}. Designs are in "
            f"{_DESIGNS} of NSD."
        )
    return script, remarks


def _design(run: Path) -> str:
    return run.name.replace("timeseries_", "design_").replace(".nii.gz", ".tsv")


def _block(
    top: Path, subject: str, path: Path, side: str, output: Path, spheres: Sequence[Path]
) -> str:
    """The commands of one side of a run; what they leave appears whole."""
    beside = output.with_name(f"fsaverage.{output.name}")
    first = ["python", "-m", "data_tools.nsd_volume", str(path), f"--nsd={top}"]
    first += [f"--subject={subject}", f"--side={side}", f"--output={beside}"]
    sphere, new_sphere, area, new_area = map(str, spheres)
    part = str(output.with_name(f"part.{output.name}"))
    second = ["wb_command", "-metric-resample", str(beside), sphere, new_sphere, "ADAP_BARY_AREA"]
    second += [part, "-area-metrics", area, new_area]
    lines = [["mkdir", "-p", str(output.parent)], first, second, ["mv", part, str(output)]]
    lines.append(["rm", str(beside)])
    return "\n".join(map(shlex.join, lines))


def _spheres(side: str, folder: Path) -> list[Path]:
    """Spheres of fsaverage and of fsLR-32k on it, and the areas of their vertices."""
    letter = side[0].upper()
    return [
        folder / name
        for name in (
            f"fsaverage_std_sphere.{letter}.164k_fsavg_{letter}.surf.gii",
            f"fs_LR-deformed_to-fsaverage.{letter}.sphere.32k_fs_LR.surf.gii",
            f"fsaverage.{letter}.midthickness_va_avg.164k_fsavg_{letter}.shape.gii",
            f"fs_LR.{letter}.midthickness_va_avg.32k_fs_LR.shape.gii",
        )
    ]


def _check(files: Sequence[Path], source: str) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f", and {len(missing) - 1} more" if missing[1:] else ""
        raise InputError(
            f"{missing[0]} is missing{more}: get what the mapping opens from {source}."
        )
