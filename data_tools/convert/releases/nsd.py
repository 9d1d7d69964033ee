"""Finds the runs of the Natural Scenes Dataset on fsLR-32k, and reads which images were shown.

The release has volumes; the GIFTI pairs are made from them (docs/data.md says how).

```
ROOT/subj01/32k_fs_LR/timeseries/timeseries_session01_run01.{lh,rh}.func.gii
ROOT/subj01/func1mm/design/design_session01_run01.tsv
```
ROOT may also be the top of the release, with these in `nsddata_timeseries/ppdata`.
"""

import functools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.raw_run import RunFiles, nothing_found, open_root
from data_tools.errors import InputError, check_file
from data_tools.nsd_volume import SIDES, transforms
from data_tools.readers.surfaces import read_surface_header
from data_tools.store.selection import Chooser

# Sessions of the main experiment as published.
SESSIONS = {
    f"subj{i:02d}": n_sessions
    for i, n_sessions in enumerate((40, 40, 32, 30, 40, 32, 40, 30), start=1)
}
N_IMAGES = 73_000
_PPDATA = "nsddata_timeseries/ppdata"
_SERIES = "32k_fs_LR/timeseries"
_NAME = re.compile(r"timeseries_session(?P<session>\d+)_run(?P<run>\d+)\.[lr]h\.func\.gii")
# Where the release has a subject's designs at 1 s. Others of the same names are at 4/3 s.
_DESIGNS, _OTHER_DESIGNS = "func1mm", "func1pt8mm"
_TR = 1.0
_PRESENTATION = 3.0  # seconds


def find_nsd_runs(
    root: str | os.PathLike,
    *,
    designs: str | os.PathLike | None = None,
    subjects: str | None = None,
) -> tuple[list[RunFiles], list[str]]:
    """Finds the runs of the main experiment and the resting runs in its sessions, in key order.

    Their fields are subject, session and run (numbers), and task ("nsdcore" or "rest", as the
    design tells). Remarks say what was left out or is missing.

    Args:
      root: the directory that holds the folders of subjects, or the top of the release.
      designs: the same for the designs, where they are elsewhere.
      subjects: which to take, see `selection.Chooser`.
    """
    root = _people(open_root(root))
    designs = root if designs is None else open_root(designs)
    take = Chooser(subjects)
    runs, others, sessions = [], 0, {}
    for folder in sorted(root.glob("subj[0-9][0-9]")):
        if not take(folder.name):
            continue
        pairs: dict[tuple[int, int], Path] = {}
        # Sorted, the left of a pair comes first; a right one stands for its pair without it.
        for path in sorted((folder / _SERIES).glob("timeseries_*.?h.func.gii")):
            match = _NAME.fullmatch(path.name)
            if match:
                pairs.setdefault((int(match["session"]), int(match["run"])), path)
            else:
                others += path.name.endswith(".lh.func.gii")
        shown = find_designs(designs, folder.name)
        runs += [_run_files(folder.name, numbers, path, shown) for numbers, path in pairs.items()]
        sessions[folder.name] = len({session for session, _ in pairs})
    if not runs:
        raise nothing_found(root, f"subjNN/{_SERIES}/timeseries_sessionNN_runNN.lh.func.gii")
    missing = [
        f"{n_found} of {SESSIONS[subject]}"
        for subject, n_found in sessions.items()
        if n_found < SESSIONS.get(subject, 0)
    ]
    remarks = [f"Subjects without all of their sessions: {', '.join(missing)}."] if missing else []
    if others:
        remarks.append(f"Left out, as they are of other experiments: {others} runs.")
    if without := sum(run.read_events is None for run in runs):
        remarks.append(f"Runs without a design, so without events: {without} of {len(runs)}.")
    return sorted(runs, key=lambda run: run.key), remarks + take.remarks()


def read_design(path: str | os.PathLike, series: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads which images were shown in a run, from its design.

    A design has a line a frame: the number of the image that appears, from 1, or 0. Where the same
    number stands on lines that follow one another, the image stayed. The run (`series`) must have
    as many frames, or one more, as the release interpolates it.

    Returns:
      Events as BIDS has them, each with the onset and duration in seconds, trial_type "nsd", and
      nsd_id, the number of the image from 0.
    """
    lines = check_file(path).read_text(errors="replace").split()
    for number, line in enumerate(lines, 1):
        if not re.fullmatch("[0-9]{1,9}", line) or int(line) > N_IMAGES:
            raise InputError(
                f"Line {number} of {path} is no number of an image, 0 to {N_IMAGES:,}: copy the "
                "design of the release again."
            )
    n_frames = read_surface_header(series).n_frames
    if n_frames - len(lines) not in (0, 1):
        raise InputError(
            f"{path} has {len(lines)} lines and {series} {n_frames} frames: give the design of "
            "this run at 1 s."
        )
    images = [int(line) for line in lines]
    return [
        {
            "onset": frame * _TR,
            "duration": _PRESENTATION,
            "trial_type": "nsd",
            "nsd_id": image - 1,
        }
        for frame, (before, image) in enumerate(zip([0, *images], images, strict=False))
        if image and image != before
    ]


def find_designs(root: Path, subject: str) -> dict[str, Path]:
    """The designs of a subject by name, wherever they are kept below the folder of the subject."""
    found = sorted(
        (path for path in (_people(root) / subject).rglob("design_session*_run*.tsv")),
        # Of two of one name that of the release, which comes last here, is taken.
        key=lambda path: (_DESIGNS in path.parts, path),
    )
    return {path.name: path for path in found if _OTHER_DESIGNS not in path.parts}


def _people(root: Path) -> Path:
    """The directory that holds the folders of subjects."""
    return root / _PPDATA if (root / _PPDATA).is_dir() else root


def _run_files(
    subject: str, numbers: tuple[int, int], path: Path, designs: dict[str, Path]
) -> RunFiles:
    session, run = numbers
    fields: dict[str, Any] = {"subject": subject, "session": session, "run": run}
    design = designs.get(f"design_session{session:02d}_run{run:02d}.tsv")
    if design:
        # In ten or more sessions a subject rested in the first and the last of 14 runs.
        is_rest = set(check_file(design).read_bytes().split()) <= {b"0"}
        fields["task"] = "rest" if is_rest else "nsdcore"
    return RunFiles(
        key=f"sub-{subject}_ses-{session}_run-{run}",
        path=path,
        fields=fields,
        read_events=functools.partial(read_design, design, path) if design else None,
        sidecar_tr=_TR,
    )


_VOLUMES = "nsddata_timeseries/ppdata/{subject}/func1mm/timeseries"
_VOLUME_DESIGNS = "nsddata_timeseries/ppdata/subjNN/func1mm/design"
_VOLUME_NAME = re.compile(r"timeseries_session\d+_run\d+\.nii\.gz")
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
    """The shell script that brings a release of volumes to a store, and remarks.

    Args:
      root, designs, subjects: as for `find_nsd_runs`.
      mapped: directory for the time series on fsLR-32k.
      templates: the directory resample_fsaverage of the HCP pipelines.
      flags: of the conversion at its end, except --input and --designs.
    """
    top, take = open_root(root), Chooser(subjects)
    runs = [
        (path.parts[-4], path)
        for path in sorted(top.glob(f"{_VOLUMES.format(subject='subj[0-9][0-9]')}/*.nii.gz"))
        if _VOLUME_NAME.fullmatch(path.name) and take(path.parts[-4])
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
        files = {side: mapped / subject / _SERIES / f"{stem}.{side}.func.gii" for side in SIDES}
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
    designs_of_runs = [
        (subject, path.name.replace("timeseries_", "design_").replace(".nii.gz", ".tsv"))
        for subject, path in runs
    ]
    if without := sum(design not in told[subject] for subject, design in designs_of_runs):
        remarks.append(
            f"Runs without a design, so without events: {without} of {len(runs)}. Designs are in "
            f"{_VOLUME_DESIGNS} of NSD."
        )
    return script, remarks + take.remarks()


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
