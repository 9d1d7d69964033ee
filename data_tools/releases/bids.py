"""Finds runs and what belongs to them by their names, in files or BIDS-like trees.

What belongs to a run (events, sidecar, confounds, participants) is inherited as in BIDS: it is
looked for beside the run, in the same place of the dataset that a derivative lies in, and above.
"""

import functools
import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.cifti import is_cifti
from data_tools.errors import InputError
from data_tools.hemispheres import hemisphere, left_of, without_hemisphere
from data_tools.releases.bids_tables import read_events, read_participants
from data_tools.run_files import RunFiles

# How surface time series are named; other files of a tree are passed over.
_PAIR_ENDINGS = (".func.gii", ".func.gii.gz", "_bold.gii", "_bold.gii.gz", ".mgz", ".mgh")
_ENDINGS = (".dtseries.nii", ".func.gii.gz", ".func.gii", ".gii.gz", ".gii", ".mgz", ".mgh")
# Entities that tell versions of one run apart rather than runs.
_VERSION_ENTITIES = frozenset({"hemi", "space", "den", "res", "desc"})
# How far up what belongs to a run is looked for: DATASET/derivatives/fmriprep/sub/ses/func/FILE.
_LEVELS = 6
# Entities that become fields of the run table, and their names there.
_FIELDS = {"sub": "subject", "ses": "session"} | {
    name: name for name in ("task", "acq", "ce", "rec", "dir", "run", "echo", "mod", "mag")
}

# What a column of participants must not be called in the run table.
_RESERVED = frozenset(
    {*_FIELDS.values(), "key", "dataset", "events", "missing", "qc", "tr", "source_tr", "confounds"}
    | {"n_frames", "shard", "first_frame", "crc32", "scale_crc32"}
)


def find_runs(
    inputs: Sequence[str | os.PathLike], participants: str | os.PathLike | None = None
) -> list[RunFiles]:
    """Finds the runs in files and directory trees.

    Of a pair of hemispheres either file or both may be named. A file that lacks its other
    hemisphere is listed, and told when it is read.

    Args:
      inputs: files, directories to search, or patterns with `*`.
      participants: a table like BIDS' `participants.tsv`; None looks for one above each run.

    Returns:
      The runs in key order, in every space that they are found in (see `in_space`).

    Raises:
      InputError: an input does not exist, there is no run in it, or a table cannot be read.
    """
    paths: dict[Path, None] = {}
    for item in inputs:
        found = _search(Path(item))
        if not found:
            raise InputError(_nothing_in(Path(item)))
        paths |= dict.fromkeys(found)
    _names.cache_clear()
    people = functools.cache(read_participants)
    runs = [_run_files(path, participants, people) for path in paths]
    return sorted(runs, key=lambda run: (run.key, str(run.path)))


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
    space, density = entities.get("space"), entities.get("den")
    if space == "fsLR":
        # Densities of CIFTI count grayordinates, those of GIFTI the vertices of a hemisphere.
        return {"170k": "fsLR-59k", "59k": "fsLR-59k"}.get(density, "fsLR-32k")
    return space


def parse_entities(name: str) -> dict[str, str]:
    """BIDS entities of a file name, in order: "sub-01_task-rest_bold.nii" -> sub, task."""
    pieces = (piece.partition("-") for piece in name.split(".")[0].split("_"))
    return {key: value for key, _, value in pieces if key and value}


def run_key(name: str) -> str:
    """The name of the run that a file belongs to, without hemisphere, space and format."""
    entities = parse_entities(name)
    if "sub" in entities:
        kept = (item for item in entities.items() if item[0] not in _VERSION_ENTITIES)
        return "_".join("-".join(item) for item in kept)
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return without_hemisphere(name)[: -len(ending) or None]


def _search(path: Path) -> list[Path]:
    """The left hemispheres and CIFTI files that a path stands for, sorted."""
    if path.is_dir():
        # Linked files count; linked directories are not entered, they may lead in circles.
        files = [file for file in sorted(path.rglob("*")) if _is_run(file.name) and file.is_file()]
    elif path.exists():
        files = [path]
    elif glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    else:
        raise InputError(f"{path} does not exist: check the path.")
    return list(dict.fromkeys(_left(file) for file in files))


def _nothing_in(path: Path) -> str:
    """Why there is no run in an input, and what makes one."""
    if path.is_dir() and any(path.rglob("*_bold.nii.gz")):
        return (
            f"{path} holds volumes and no surface runs: run fMRIPrep with --cifti-output 91k, "
            "which adds *_space-fsLR_den-91k_bold.dtseries.nii."
        )
    return (
        f"There is no surface run in {path}: give CIFTI .dtseries.nii files, or pairs named like "
        "NAME.lh.mgz and NAME.rh.mgz or NAME_hemi-L.func.gii."
    )


def _is_run(name: str) -> bool:
    if name.startswith("."):
        return False
    return is_cifti(name) or (name.lower().endswith(_PAIR_ENDINGS) and hemisphere(name) is not None)


def _left(path: Path) -> Path:
    """The left hemisphere beside a right one, where there is one."""
    if is_cifti(path) or hemisphere(path.name) != "right":
        return path
    left = path.with_name(left_of(path.name))
    return left if left.exists() else path


def _run_files(path: Path, participants: str | os.PathLike | None, people: Callable) -> RunFiles:
    entities = parse_entities(path.name)
    fields = {_FIELDS[name]: value for name, value in entities.items() if name in _FIELDS}
    table = participants or next(
        (above / "participants.tsv" for above in _above(path) if _has(above, "participants.tsv")),
        None,
    )
    if table is not None:
        told = people(table).get(str(fields.get("subject")), {})
        # A column with the name of a field of ours must not take its place.
        fields |= {f"participant_{k}" if k in _RESERVED else k: v for k, v in told.items()}
    events = _belonging(path, "_events.tsv")
    return RunFiles(
        run_key(path.name),
        path,
        fields,
        read_events=events and functools.partial(read_events, events),
        confounds=_belonging(path, "_timeseries.tsv", "confounds")
        or _belonging(path, "_regressors.tsv", "confounds"),
        sidecar_tr=_belonging(path, "_bold.json"),
    )


def _above(path: Path) -> Sequence[Path]:
    """The directories that may hold what belongs to a run, the nearest first."""
    return path.absolute().parents[:_LEVELS]


@functools.lru_cache(maxsize=4096)
def _names(directory: Path, ending: str) -> tuple[str, ...]:
    """The names in a directory with an ending, sorted; of none that cannot be listed."""
    try:
        return tuple(sorted(name for name in os.listdir(directory) if name.endswith(ending)))
    except OSError:
        return ()


def _has(directory: Path, name: str) -> bool:
    return name in _names(directory, name)


def _belonging(path: Path, ending: str, description: str | None = None) -> Path | None:
    """The file of a kind whose entities agree with those of the run the most, the nearest first."""
    entities = parse_entities(path.name)
    place = [f"sub-{entities.get('sub')}"]
    place += [f"ses-{entities['ses']}"] if "ses" in entities else []
    best: tuple[int, Path | None] = (0, None)
    for above in _above(path):
        for directory in (above, above.joinpath(*place, "func")):
            for name in _names(directory, ending):
                theirs = parse_entities(name)
                if theirs.pop("desc", description) != description:
                    continue
                if (
                    theirs.get("task") == entities.get("task")
                    and theirs.items() <= entities.items()
                ):
                    best = max(best, (len(theirs), directory / name), key=lambda item: item[0])
    return best[1]
