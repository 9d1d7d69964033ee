"""What belongs to a run in a BIDS-like tree: its events, sidecars, confounds and participant.

BIDS lets files be inherited: one whose entities are among those of the run applies to it. We look
beside the run, in the same place of the dataset that a derivative lies in (also in its `rawdata`),
and in the directories above, up to the top of the dataset and never beyond.
"""

import collections
import functools
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.readers.tables import UNKNOWN, read_rows, to_number, typed_rows
from data_tools.store.identity import persons

# DATASET/derivatives/fmriprep/sub-01/ses-01/func/FILE
_LEVELS = 6
# Entities that are numbers: 1 is 01.
_INDICES = frozenset({"run", "echo", "flip", "inv", "split", "chunk"})
# Entities of raw files that derivatives may drop where there is one run, or echoes were combined.
_DROPPED = frozenset({"run", "echo", "part"})


def parse_entities(name: str) -> dict[str, str]:
    """BIDS entities of a file name, in order: "sub-01_task-rest_bold.nii" -> sub, task."""
    pieces = (piece.partition("-") for piece in name.split(".")[0].split("_"))
    return {key: value for key, _, value in pieces if key and value}


def compared_entities(name: str) -> dict[str, str]:
    """The entities of a file name as they compare: numbers without leading zeros."""
    return {
        key: value.lstrip("0") or "0" if key in _INDICES and value.isdecimal() else value
        for key, value in parse_entities(name).items()
    }


class Inheritance:
    """The directories around the runs of an input; what they list is read and sorted once.

    Looking up the files of a run takes as long in a folder of 40,000 runs as in one of four.

    Args:
      top: the directory that was searched; where nothing tells the top of a dataset, it is that.
      raw: a raw dataset kept elsewhere, whose events, sidecars and participants apply too.
    """

    def __init__(self, top: Path, raw: Path | None = None):
        self._top, self._raw = top, raw
        self._list = functools.cache(_list)
        self._by_subject = functools.cache(self._sort_by_subject)
        self._beside = functools.cache(self._sort_by_beginning)

    def directories(self, run: Path) -> list[Path]:
        """The directories whose files may belong to a run, the nearest first."""
        above = list(run.parents[:_LEVELS])
        last = above.index(self._top) if self._top in above else 0
        for i, folder in enumerate(above):
            # A dataset describes itself, or has the derivatives that the run is one of.
            described = "dataset_description.json" in self._list(folder)
            derived = i > 0 and above[i - 1].name == "derivatives"
            if derived or (described and folder.parent.name != "derivatives"):
                last = i
                break
        return [*above[: last + 1], above[last] / "rawdata", *([self._raw] if self._raw else [])]

    def participants(self, run: Path) -> Path | None:
        """The nearest `participants.tsv`."""
        for folder in self.directories(run):
            if "participants.tsv" in self._list(folder):
                return folder / "participants.tsv"
        return None

    def files(
        self, run: Path, endings: str | tuple[str, ...], description: str | None = None
    ) -> list[Path]:
        """The files of a kind that apply to a run, first those of most shared entities.

        Of those that share as many, the nearest come first. Their names end in one of `endings`,
        such as "_events.tsv"; with a `description`, their entity `desc` must be that, whatever that
        of the run says. A file of the subject applies too if it has a number that the name of the
        run lacks.
        """
        return [path for _, path in self._ranked(run, endings, description)]

    def file(
        self,
        run: Path,
        endings: str | tuple[str, ...],
        description: str | None = None,
        *,
        inherited: bool = True,
    ) -> Path | None:
        """Returns the best match, or None; raises InputError if two files match equally well.

        Unless it may be `inherited` by all runs of a task, it has the number of the run.
        """
        ranked = self._ranked(run, endings, description)
        if not inherited and "run" in parse_entities(run.name):
            ranked = [item for item in ranked if "run" in parse_entities(item[1].name)]
        if not ranked:
            return None
        best, first = ranked[0]
        # Of files that lack nothing the nearest counts; a number that was dropped may be any.
        equals = [p for rank, p in ranked if rank == best and (best[1] or p.parent == first.parent)]
        if len({path.name for path in equals}) > 1:
            names = " and ".join(path.name for path in equals[:2])
            raise InputError(
                f"{names} both fit {run}, so nobody knows which belongs to it: leave one of them, "
                "or give the run the number that it has there."
            )
        return first

    def _ranked(
        self, run: Path, endings: str | tuple[str, ...], description: str | None
    ) -> list[tuple[tuple[int, int], Path]]:
        """Each file of a kind with how few entities it shares with a run, and how many it adds."""
        entities = compared_entities(run.name)
        place = [f"{key}-{value}" for key, value in parse_entities(run.name).items()]
        place = [folder for folder in place if folder.startswith(("sub-", "ses-"))]
        dropped = _DROPPED - entities.keys()
        taken = self._numbers_beside(run) if "run" in dropped else frozenset()
        found: dict[Path, tuple[int, int]] = {}
        for folder in self.directories(run):
            for directory in dict.fromkeys((folder, folder.joinpath(*place, "func"))):
                files = self._by_subject(directory, endings)
                # A file of somebody else never applies; one without a subject may be of all.
                nearby = (x for sub in {entities.get("sub"), None} for x in files[sub])
                for name, theirs in sorted(nearby, key=operator.itemgetter(0)):
                    if description is not None:
                        theirs = dict(theirs)
                        if theirs.pop("desc", None) != description:
                            continue
                    shared = theirs.items() & entities.items()
                    added = theirs.keys() - dict(shared).keys()
                    same_task = theirs.get("task") == entities.get("task")
                    fits = added <= (dropped if "sub" in theirs else frozenset())
                    if shared and same_task and fits and theirs.get("run") not in taken:
                        found[directory / name] = (-len(shared), len(added))
        return sorted(((rank, path) for path, rank in found.items()), key=lambda item: item[0])

    def _sort_by_subject(
        self, directory: Path, endings: str | tuple[str, ...]
    ) -> Mapping[str | None, list[tuple[str, dict[str, str]]]]:
        """The names of a kind in a directory and their entities, by subject."""
        found = collections.defaultdict(list)
        for name in self._list(directory):
            if name.endswith(endings):
                theirs = compared_entities(name)
                found[theirs.get("sub")].append((name, theirs))
        return found

    def _sort_by_beginning(self, directory: Path) -> Mapping[str, list[str]]:
        """The names in a directory by what stands before their first "_"."""
        found = collections.defaultdict(list)
        for name in self._list(directory):
            found[name.partition("_")[0]].append(name)
        return found

    def _numbers_beside(self, run: Path) -> frozenset[str]:
        """The numbers of runs of the same task that lie beside one without a number."""
        subject, own = run.name.partition("_")[0], parse_entities(run.name)
        kind = run.name.partition(".")[2]
        names = self._beside(run.parent)[subject]
        others = [compared_entities(name) for name in names if name.partition(".")[2] == kind]
        same = [x for x in others if all(x.get(k) == own.get(k) for k in ("sub", "ses", "task"))]
        return frozenset(x["run"] for x in same if "run" in x)


def _list(directory: Path) -> dict[str, None]:
    """The names in a directory, sorted; none where it cannot be listed."""
    try:
        return dict.fromkeys(sorted(os.listdir(directory)))
    except OSError:
        return {}


def read_events(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a BIDS `events.tsv`: one dictionary a row, with numbers in columns of numbers.

    Events have `onset` and `duration` in seconds from the first frame; None is an unknown value.
    """
    rows = read_rows(path, "onset", "duration")
    events = typed_rows(rows)
    for event, (number, row) in zip(events, rows, strict=True):
        for name in ("onset", "duration"):
            text = row[name].strip()
            if text.lower() in UNKNOWN:
                event[name] = None
            elif isinstance(event[name], str):
                event[name] = to_number(text)
                if event[name] is None:
                    raise InputError(
                        f"Line {number} of {path} has '{text}' as its {name}, which is no number "
                        "of seconds: mend it, or write n/a."
                    )
    return events


def read_participants(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Reads a `participants.tsv`: the other columns by participant, with "sub-" left out."""
    rows = read_rows(path, "participant_id")
    labels = [row["participant_id"].strip().removeprefix("sub-") for _, row in rows]
    names, table, listed = persons(labels), {}, set()
    for label, (number, _), values in zip(labels, rows, typed_rows(rows), strict=True):
        if names[label] in listed:
            # Without the name, which may have to stay in this table.
            raise InputError(f"Line {number} of {path} is of somebody listed before: leave one.")
        listed.add(names[label])
        del values["participant_id"]
        table[label] = values
    return table
