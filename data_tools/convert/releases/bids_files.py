"""What belongs to a run in a BIDS-like tree: its events, sidecars, confounds and participant.

BIDS lets files be inherited: one whose entities are among those of the run applies to it. We look
beside the run, in the same place of the dataset that a derivative lies in, and in the directories
above, up to the top of the dataset and never beyond.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.readers.tables import UNKNOWN, read_rows, to_number, typed_rows
from data_tools.store.identity import persons

# DATASET/derivatives/fmriprep/sub-01/ses-01/func/FILE
_LEVELS = 6


def parse_entities(name: str) -> dict[str, str]:
    """BIDS entities of a file name, in order: "sub-01_task-rest_bold.nii" -> sub, task."""
    pieces = (piece.partition("-") for piece in name.split(".")[0].split("_"))
    return {key: value for key, _, value in pieces if key and value}


class Inheritance:
    """The directories around the runs of an input; what they list is read once.

    Args:
      top: the directory that was searched; where nothing tells the top of a dataset, it is that.
      raw: a raw dataset kept elsewhere, whose events, sidecars and participants apply too.
    """

    def __init__(self, top: Path, raw: Path | None = None):
        self._top, self._raw = top, raw
        self._list = functools.cache(_list)

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
        return above[: last + 1] + ([self._raw] if self._raw else [])

    def participants(self, run: Path) -> Path | None:
        """The nearest `participants.tsv`."""
        for folder in self.directories(run):
            if "participants.tsv" in self._list(folder):
                return folder / "participants.tsv"
        return None

    def files(self, run: Path, ending: str, description: str | None = None) -> list[Path]:
        """The files of a kind that apply to a run, first those of most shared entities.

        Of those that share as many, the nearest come first. Their names end in `ending`, such as
        "_events.tsv"; with a `description`, their entity `desc` must be that, whatever that of the
        run says.
        """
        entities = parse_entities(run.name)
        place = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
        found: list[tuple[int, Path]] = []
        for folder in self.directories(run):
            for directory in dict.fromkeys((folder, folder.joinpath(*place, "func"))):
                for name in self._list(directory):
                    if not name.endswith(ending):
                        continue
                    theirs = parse_entities(name)
                    if description is not None and theirs.pop("desc", None) != description:
                        continue
                    same_task = theirs.get("task") == entities.get("task")
                    if theirs and same_task and theirs.items() <= entities.items():
                        found.append((-len(theirs), directory / name))
        found.sort(key=lambda item: item[0])
        return list(dict.fromkeys(path for _, path in found))


def _list(directory: Path) -> Sequence[str]:
    """The names in a directory, sorted; none where it cannot be listed."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


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
