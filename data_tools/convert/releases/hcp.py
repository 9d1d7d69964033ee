"""Finds the runs of the HCP young adult release, and reads their events.

```
ROOT/100307/MNINonLinear/Results/tfMRI_WM_LR/tfMRI_WM_LR_Atlas_MSMAll.dtseries.nii        3T
                                             EVs/0bk_body.txt  EVs/Sync.txt  ...
ROOT/100610/MNINonLinear/Results/rfMRI_REST1_7T_PA/rfMRI_REST1_7T_PA_Atlas_MSMAll.dtseries.nii
```
"""

import collections
import functools
import os
import re
from pathlib import Path
from typing import Any

import tqdm

from data_tools.convert.raw_run import VOLUME_READERS, RunFiles, nothing_found, open_root
from data_tools.errors import InputError, check_file
from data_tools.readers.tables import to_number
from data_tools.store.selection import Chooser

SUFFIX = "_Atlas_MSMAll"
_RESULTS = "MNINonLinear/Results"
_ACQUISITION = re.compile(
    r"(?P<mod>[rt]fMRI)_(?P<task>[A-Za-z0-9]+)_(?:(?P<mag>7T)_)?(?P<dir>[A-Z]{2})"
)
_TR = {"3T": 0.72, "7T": 1.0}
# When the scanner gave its signal: the other times count from there already.
_NO_CONDITIONS = frozenset({"Sync"})


def find_hcp_runs(
    root: str | os.PathLike,
    *,
    suffix: str | None = None,
    volumes: bool = False,
    subjects: str | None = None,
    tasks: str | None = None,
) -> tuple[list[RunFiles], list[str]]:
    """Finds the runs of a release, in key order, and remarks on what was left out or is missing.

    Folders that hold several acquisitions merged, such as that of the 7T retinotopy, have other
    names than acquisitions and are left out. The fields of runs are subject, mod, task, mag and
    dir.

    Args:
      root: the directory that holds a folder a subject.
      suffix: what stands between the name of an acquisition and `.dtseries.nii`, or `.nii.gz`; None
        for what the release has by default.
      volumes: whether to find volumes in MNI152 space in place of surface runs.
      subjects, tasks: which to take, see `selection.Chooser`.
    """
    root = open_root(root)
    take_subject, take_task = Chooser(subjects), Chooser(tasks)
    ending = ".nii.gz" if volumes else ".dtseries.nii"
    ending = ("" if volumes else SUFFIX) + ending if suffix is None else suffix + ending
    runs, merged, without_events = [], collections.Counter(), 0
    for subject in tqdm.tqdm(hcp_subjects(root), "subjects", unit="", leave=False, delay=1):
        if not take_subject(subject):
            continue
        for folder in sorted((root / subject / _RESULTS).glob("?fMRI_*")):
            path = folder / f"{folder.name}{ending}"
            # A link whose content was not fetched is a run too, which is skipped with this reason.
            if not os.path.lexists(path):
                continue
            match = _ACQUISITION.fullmatch(folder.name)
            if not match:
                merged[folder.name] += 1
                continue
            if not take_task(match["task"]):
                continue
            names, evs = match.groupdict() | {"mag": match["mag"] or "3T"}, folder / "EVs"
            # At 7T, films and retinotopy come without events; at 3T every task has some.
            if not evs.is_dir() and match["mod"] == "tfMRI" and not match["mag"]:
                without_events += 1
            run = RunFiles(
                key="_".join(f"{name}-{x}" for name, x in ({"sub": subject} | names).items()),
                path=path,
                fields={"subject": subject} | names,
                **(VOLUME_READERS if volumes else {}),
                read_events=functools.partial(read_evs, evs) if evs.is_dir() else None,
                sidecar_tr=_TR[names["mag"]],
            )
            runs.append(run)
    if not runs:
        raise nothing_found(root, f"SUBJECT/{_RESULTS}/ACQUISITION/ACQUISITION{ending}")
    remarks = [
        f"Left out, as it is no single acquisition: {name} ({count} runs)."
        for name, count in sorted(merged.items())
    ]
    if without_events:
        remarks.append(
            f"Task runs at 3T without a folder EVs, so without events: {without_events}."
        )
    remarks += take_subject.remarks() + take_task.remarks()
    return sorted(runs, key=lambda run: run.key), remarks


def hcp_subjects(root: str | os.PathLike) -> list[str]:
    """The subjects that have a folder in a release, sorted."""
    return sorted(path.name for path in Path(root).glob("[0-9]*") if path.is_dir())


def read_evs(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the event files of a run, `CONDITION.txt` with a line an event, from its folder EVs.

    A file without lines is a condition that was never shown. Events are as BIDS has them, by onset
    and then condition: onset and duration in seconds, trial_type (the condition) and value.
    """
    events = []
    for path in sorted(Path(folder).glob("[!.]*.txt")):
        if path.stem in _NO_CONDITIONS:
            continue
        lines = check_file(path).read_text(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            numbers = [to_number(cell) for cell in line.split()]
            if len(numbers) != 3 or None in numbers:
                raise InputError(
                    f"Line {number} of {path} is no onset, duration and value: copy it again, or "
                    "mend it."
                )
            onset, duration, value = numbers
            events.append(
                {"onset": onset, "duration": duration, "trial_type": path.stem, "value": value}
            )
    return sorted(events, key=lambda event: (event["onset"], event["trial_type"]))
