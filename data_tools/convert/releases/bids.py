"""Finds runs by their names, in files or BIDS-like trees, and with them what belongs to them."""

import collections
import functools
import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from data_tools.convert.raw_run import VOLUME_READERS, RunFiles
from data_tools.convert.releases.bids_files import (
    Inheritance,
    parse_entities,
    read_events,
    read_participants,
)
from data_tools.convert.releases.side_by_side import VERSION_ENTITIES
from data_tools.errors import InputError
from data_tools.readers.cifti import is_cifti
from data_tools.readers.surface_run import hemisphere, other_side, without_hemisphere
from data_tools.readers.volume_run import is_surface_nifti, is_volume
from data_tools.store.checks import RESERVED
from data_tools.store.identity import persons, some_of, twins_but_for_case

# How surface time series are named; other files of a tree are passed over.
_PAIR_ENDINGS = (".func.gii", ".func.gii.gz", "_bold.gii", "_bold.gii.gz", ".mgz", ".mgh")
_ENDINGS = (
    *(".dtseries.nii.gz", ".dtseries.nii", ".func.gii.gz", ".func.gii", ".gii.gz", ".gii"),
    *(".mgz", ".mgh", ".nii.gz", ".nii"),
)
# The volumes of a tree that lie in MNI152 space.
_VOLUMES = re.compile(r"_space-MNI152.*_bold\.nii(\.gz)?$")
# How releases with converters of their own lay runs out.
_RELEASES = {
    "convert_hcp": re.compile(r"/MNINonLinear/Results/"),
    "convert_nsd": re.compile(r"/32k_fs_LR/timeseries/timeseries_session\d+_run\d+\."),
    "convert_ukbb": re.compile(r"_32136_\d+_0\.zip$"),
}
# The sidecars of runs, as versions of fMRIPrep and other programs name them.
_SIDECARS = ("_bold.json", "_bold.dtseries.json", "_bold.func.json")
# Where FreeSurfer keeps what is no run, as in sourcedata/freesurfer/sub-01/mri/lh.ribbon.mgz.
_FREESURFER = frozenset({"label", "mri", "surf", "touch"})
# Densities of fsLR: CIFTI counts grayordinates, GIFTI the vertices of a hemisphere.
_DENSITIES = {
    ("fsLR", "170k"): "fsLR-59k",
    ("fsLR", "59k"): "fsLR-59k",
    ("fsaverage", "10k"): "fsaverage5",
    ("fsaverage", "41k"): "fsaverage6",
}
# Entities that become fields of the run table, and their names there.
_FIELDS = {"sub": "subject", "ses": "session"} | {
    name: name for name in ("task", "acq", "ce", "rec", "dir", "run", "echo", "mod", "mag")
}

# What a column of participants must not be called in the run table.
_RESERVED = RESERVED.union(
    _FIELDS.values(), ("dataset", "qc", "source_tr", "start_time", "confounds")
)


def find_runs(
    inputs: Sequence[str | os.PathLike],
    participants: str | os.PathLike | None = None,
    raw: str | os.PathLike | None = None,
    volumes: bool = False,
    show: bool = True,
) -> list[RunFiles]:
    """Finds the runs in files and directory trees.

    Of a pair of hemispheres either file or both may be named. A file that lacks its other
    hemisphere is listed, and told when it is read.

    Args:
      inputs: files, directories to search, or patterns with `*` for either.
      participants: a table like BIDS' `participants.tsv`; None looks for one above each run.
      raw: the raw BIDS dataset of derivatives that lie outside of it.
      volumes: whether to find volumes in MNI152 space in place of surface runs.
      show: whether what is printed may name people.

    Returns:
      The runs in key order, in every space that they are found in (see `in_space`).

    Raises:
      InputError: an input does not exist, there is no run in it, or a table cannot be read.
    """
    if raw is not None and not Path(raw).is_dir():
        raise InputError(f"{raw} is no directory: give the raw BIDS dataset.")
    raw = raw and Path(raw).absolute()
    paths: dict[Path, Inheritance] = {}
    around = functools.cache(functools.partial(Inheritance, raw=raw))  # files share directories
    for item in inputs:
        found = _search(Path(item).absolute(), around, volumes)
        if not found:
            raise InputError(_nothing_in(Path(item), volumes))
        for path, place in found.items():
            paths.setdefault(path, place)
    tables = {path: participants or around.participants(path) for path, around in paths.items()}
    labels = collections.defaultdict(set)
    for path, table in tables.items():
        labels[table].add(parse_entities(path.name).get("sub"))
    people = {
        table: _read_people(table, some - {None}, participants is not None, show)
        for table, some in labels.items()
        if table is not None
    }
    runs = [
        _run_files(path, around, *people.get(tables[path], ({}, frozenset())))
        for path, around in paths.items()
    ]
    return sorted(runs, key=lambda run: (run.key, str(run.path)))


def describe_runs(runs: Sequence[RunFiles]) -> str:
    """A sentence on what was found, and how much of what belongs to runs."""
    n_events = sum(run.read_events is not None for run in runs)
    n_confounds = sum(run.confounds is not None for run in runs)
    n_people = sum(bool(run.fields.keys() - _FIELDS.values()) for run in runs)
    return (
        f"Runs found: {len(runs)}; with events: {n_events}, with confounds: {n_confounds}, in a "
        f"table of participants: {n_people}."
    )


def in_space(runs: Sequence[RunFiles], space: str | None) -> list[RunFiles]:
    """The runs of a tree that are in a space, such as "fsLR-32k", as far as names tell.

    Where no name tells this space, all are taken; reading them will show.
    """
    if space is None:
        return list(runs)
    return [run for run in runs if space_of(run.path.name) in (None, space)] or list(runs)


def space_of(name: str) -> str | None:
    """The space that the entities `space` and `den` of a file name tell, in our words."""
    entities = parse_entities(name)
    space, density = entities.get("space"), entities.get("den", "")
    return _DENSITIES.get((space, density), "fsLR-32k" if space == "fsLR" else space)


def run_key(name: str) -> str:
    """The name of the run that a file belongs to, without hemisphere, space and format."""
    entities = parse_entities(name)
    if "sub" in entities:
        kept = (item for item in entities.items() if item[0] not in (*VERSION_ENTITIES, "hemi"))
        return "_".join("-".join(item) for item in kept)
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    # CIFTI files and volumes have both hemispheres, whatever they say of left and right.
    bare = name if is_cifti(name) or is_volume(name) else without_hemisphere(name)
    return bare[: -len(ending) or None]


def _search(
    path: Path, around: Callable[[Path], Inheritance], volumes: bool
) -> dict[Path, Inheritance]:
    """The left hemispheres and whole files that a path stands for, and what lies around them."""
    if path.is_dir():
        is_run = _VOLUMES.search if volumes else _is_run
        files = sorted(_walk(path))
        for tool, layout in _RELEASES.items():
            if any(layout.search(file.as_posix()) for file in files):
                raise InputError(
                    f"{path} is laid out as the release that data_tools.{tool} converts: use it, "
                    "or give single files, or a pattern for them in quotes."
                )
        return {_left(file): around(path) for file in files if is_run(file.name)}
    if os.path.lexists(path):  # reading it says where a link leads to nothing
        return {_left(path): around(path.parent)}
    if not glob.has_magic(str(path)):
        raise InputError(f"{path} does not exist: check the path.")
    found: dict[Path, Inheritance] = {}
    for name in sorted(glob.glob(str(path), recursive=True)):
        if name.endswith((".tsv", ".json")):  # they lie beside the runs of most patterns
            continue
        found |= _search(Path(name), around, volumes)
    return found


def _walk(top: Path) -> Iterator[Path]:
    """The files below a directory, linked ones included, but for those of FreeSurfer."""
    seen = set()
    walk = os.walk(top, followlinks=True)
    for folder, folders, names in tqdm.tqdm(walk, "search", unit=" folders", leave=False, delay=1):
        # Links may lead in circles.
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if name[0] != "." and name not in _FREESURFER]
        yield from (Path(folder, name) for name in names)


def _nothing_in(path: Path, volumes: bool) -> str:
    """Why there is no run in an input, and what makes one."""
    if volumes:
        return (
            f"There is no volume in MNI152 space in {path}: give *_space-MNI152*_bold.nii.gz, "
            "which fMRIPrep makes with --output-spaces MNI152NLin6Asym:res-2."
        )
    if path.is_dir() and any(path.rglob("*_bold.nii.gz")):
        return (
            f"{path} holds volumes and no surface runs: run fMRIPrep with --cifti-output 91k, "
            "which adds *_space-fsLR_den-91k_bold.dtseries.nii, or take the cortex of the volumes "
            "with --cortex."
        )
    return (
        f"There is no surface run in {path}: give CIFTI .dtseries.nii files, or pairs named like "
        "NAME.lh.mgz and NAME.rh.mgz or NAME_hemi-L.func.gii."
    )


def _is_run(name: str) -> bool:
    if name.startswith("."):
        return False
    if is_cifti(name) or is_surface_nifti(name):
        return True
    return name.lower().endswith(_PAIR_ENDINGS) and hemisphere(name) is not None


def _left(path: Path) -> Path:
    """The left hemisphere beside a right one, where there is one."""
    if is_cifti(path) or is_volume(path) or hemisphere(path.name) != "right":
        return path
    left = path.with_name(other_side(path.name))
    return left if os.path.lexists(left) else path


def _run_files(
    path: Path, around: Inheritance, people: dict[str, dict[str, Any]], known: frozenset[str]
) -> RunFiles:
    """A run, given what a table says of subjects and whom it lists."""
    entities = parse_entities(path.name)
    fields = {_FIELDS[name]: value for name, value in entities.items() if name in _FIELDS}
    if told := people.get(fields.get("subject")):
        # A column with the name of a field of ours must not take its place.
        fields |= {f"participant_{k}" if k in _RESERVED else k: v for k, v in told.items()}
    found, fault = {}, None
    try:
        events = around.file(path, "_events.tsv")
        # The second is of fMRIPrep before 20.2.
        endings = ("_timeseries.tsv", "_regressors.tsv")
        found["confounds"] = around.file(path, endings, "confounds", inherited=False)
        found["outliers"] = around.file(path, "_outliers.tsv", inherited=False)
    except InputError as error:
        events, fault = None, str(error)
    return RunFiles(
        run_key(path.name),
        path,
        fields,
        **(VOLUME_READERS if is_volume(path) else {}),
        **found,
        read_events=functools.partial(read_events, events) if events else None,
        sidecar_tr=tuple(around.files(path, _SIDECARS)),
        fault=fault,
        people=known,
    )


def _read_people(
    table: str | os.PathLike, labels: Collection[str], given: bool, show: bool
) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
    """Reads the rows of these subjects from a table of participants, and all labels in it.

    A subject is found however the table writes it. InputError if most are not in a table that was
    `given` for them.
    """
    rows = read_participants(table)
    names = persons(labels, rows)
    places = {names[label]: label for label in rows}
    told = {label: rows[places[names[label]]] for label in labels if names[label] in places}
    lost = [label for label in labels if label not in told]
    if lost:
        twins = len(twins_but_for_case({names[label] for label in lost}, places))
        case = f", {twins} of which differ from a row in case only" if twins else ""
        such = f", such as {some_of(lost)}" if show else ""
        said = f"Subjects without a row in {table}: {len(lost)} of {len(labels)}{case}{such}"
        if given and 2 * len(lost) > len(labels):
            raise InputError(f"{said}: write them there as in the names of the files.")
        print(f"{said}.")
    return told, frozenset(rows)
