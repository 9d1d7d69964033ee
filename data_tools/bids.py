"""Finds runs and what belongs to them by their names, in files or BIDS-like trees."""

import csv
import dataclasses
import glob
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.cifti import is_cifti
from data_tools.errors import InputError
from data_tools.hemispheres import hemisphere, left_of, without_hemisphere

# How surface time series are named; other files of a tree are passed over.
_PAIR_ENDINGS = (".func.gii", ".func.gii.gz", "_bold.gii", "_bold.gii.gz", ".mgz", ".mgh")
_ENDINGS = (".dtseries.nii", ".func.gii.gz", ".func.gii", ".gii.gz", ".gii", ".mgz", ".mgh")
# Entities that tell versions of one run apart rather than runs.
_VERSION_ENTITIES = frozenset({"hemi", "space", "den", "res", "desc"})
# Entities that become fields of the run table, and their names there.
_FIELDS = {"sub": "subject", "ses": "session"} | {
    name: name for name in ("task", "acq", "ce", "rec", "dir", "run", "echo", "mod", "mag")
}


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    Attributes:
      key: name of the run, such as "sub-01_ses-02_task-rest_run-01".
      path: a CIFTI file, or the left hemisphere of a pair (the right is found when it is read).
      entities: BIDS entities of the name in their order, such as {"sub": "01", "task": "rest"}.
      events: the `*_events.tsv` that belongs to it, if there is one.
    """

    key: str
    path: Path
    entities: dict[str, str]
    events: Path | None

    @property
    def fields(self) -> dict[str, str]:
        """Metadata for the run table: subject, session, task and the other entities."""
        return {_FIELDS[name]: value for name, value in self.entities.items() if name in _FIELDS}


def find_runs(inputs: Sequence[str | os.PathLike], space: str | None = None) -> list[RunFiles]:
    """Finds the runs in files and directory trees.

    Of a pair of hemispheres either file or both may be named. A file that lacks its other
    hemisphere is listed, and told when it is read.

    Args:
      inputs: files, directories to search, or patterns with `*`.
      space: name of the space that is wanted, such as "fsaverage5". Where a tree holds runs in
        several, told by the entity `space`, those in this one are taken.

    Returns:
      The runs in key order.

    Raises:
      InputError: an input does not exist, there is no run in it, or two runs have one name.
    """
    paths: dict[Path, None] = {}
    for item in inputs:
        found = _search(Path(item))
        if not found:
            raise InputError(
                f"There is no surface run in {item}: give CIFTI .dtseries.nii files, or pairs "
                "named like NAME.lh.mgz and NAME.rh.mgz or NAME_hemi-L.func.gii."
            )
        paths |= dict.fromkeys(found)
    runs = [_run_files(path) for path in paths]
    if space is not None:
        # BIDS writes the density of fsLR as another entity: space-fsLR_den-32k.
        wanted = (None, space, space.split("-")[0])
        runs = [run for run in runs if run.entities.get("space") in wanted] or runs
    runs.sort(key=lambda run: run.key)
    for one, other in zip(runs, runs[1:], strict=False):
        if one.key == other.key:
            raise InputError(
                f"{one.path} and {other.path} are both the run {one.key}: give only one of them."
            )
    return runs


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


def read_events(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a BIDS `events.tsv`: one dictionary a row, with numbers where they are numbers.

    Returns:
      Events with `onset` and `duration` in seconds from the first frame; "n/a" is None.

    Raises:
      InputError: the file is no table, or an onset or a duration is no number.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table ({error}): save it as UTF-8 .tsv.") from error
    events = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(f"Line {number} of {path} has another number of columns: mend it.")
        event = {name: _value(text) for name, text in row.items()}
        # A duration may be unknown, an onset may not.
        if not _is_number(event.get("onset")) or not (
            event.get("duration") is None or _is_number(event["duration"])
        ):
            raise InputError(
                f"Line {number} of {path} has no onset or duration in numbers: mend it."
            )
        events.append(event)
    return events


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


def _run_files(path: Path) -> RunFiles:
    entities = parse_entities(path.name)
    return RunFiles(run_key(path.name), path, entities, _find_events(path, entities))


def _find_events(path: Path, entities: dict[str, str]) -> Path | None:
    """The events file in the run's directory whose entities agree with the run's the most."""
    best: tuple[int, Path | None] = (0, None)
    for candidate in sorted(path.parent.glob("*_events.tsv")):
        theirs = parse_entities(candidate.name)
        if theirs.get("task") == entities.get("task") and theirs.items() <= entities.items():
            best = max(best, (len(theirs), candidate), key=lambda item: item[0])
    return best[1]


def _value(text: str) -> float | str | None:
    text = text.strip()
    if text in ("", "n/a"):
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    # JSON has no NaN, and an identifier such as "007" is not the number 7.
    if not math.isfinite(number) or (len(text) > 1 and text[0] == "0" and text[1].isdigit()):
        return text
    return int(number) if text.lstrip("+-").isdigit() else number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
