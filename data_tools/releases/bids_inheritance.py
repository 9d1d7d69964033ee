"""What belongs to a run in a BIDS-like tree: its events, sidecars, confounds and participant.

BIDS lets files be inherited: one whose entities are among those of the run applies to it. We look
beside the run, in the same place of the dataset that a derivative lies in, and in the directories
above, up to the top of the dataset and never beyond.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

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
        """The files of a kind that apply to a run.

        Args:
          run: absolute path.
          ending: of their names, such as "_events.tsv".
          description: what their entity `desc` must say, whatever that of the run says.

        Returns:
          Those that share the most entities first, and of these the nearest.
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
