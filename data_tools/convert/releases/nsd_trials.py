"""Labels of the trials of the Natural Scenes Dataset: which are included, and what they show.

A table of included trials has the columns sub, ses, run, nsd_id, onset, perhaps trial_id, and
category_id; that of the published benchmark also split. Without category_id the class is that of
the largest of given logits, one row an image. Images that all subjects saw ("shared1000") are a
split of their own there: their class goes by another name, so that it is in no other split.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases.nsd import N_IMAGES
from data_tools.errors import InputError
from data_tools.files.npy import read_array
from data_tools.readers.tables import read_rows, to_count, to_number

Event = dict[str, Any]

_NEEDED = ("sub", "ses", "run", "nsd_id", "onset")
_SHARED = "shared1000"
# Designs are at 1 s: a trial of the table and its event lie closer than this, in seconds.
_TOLERANCE = 0.5


def label_runs(
    runs: Sequence[RunFiles],
    trials: str | os.PathLike | None = None,
    logits: str | os.PathLike | None = None,
) -> list[RunFiles]:
    """Runs of `find_nsd_runs` whose events say the classes of their trials.

    Their field labels_from has the names of the files: runs that an earlier job, which was killed,
    has converted with other labels are converted again.

    Args:
      trials: table of the included trials (CSV); None includes all.
      logits: `.npy` (73000, classes) by image.
    """
    classes = None if logits is None else read_classes(logits)
    table = None if trials is None else read_trials(trials, classes)
    if table is not None and runs and not any(_place(run) in table for run in runs):
        raise InputError(
            f"{trials} has no trial of these runs: its columns sub, ses and run must tell them as "
            f"in {', '.join(map(str, _place(runs[0])))}."
        )
    source = "+".join(Path(path).name for path in (trials, logits) if path is not None)
    return [_labelled(run, table, classes, source) for run in runs]


def read_trials(
    path: str | os.PathLike, classes: np.ndarray | None = None
) -> dict[tuple[str, int, int], list[Event]]:
    """The included trials (CSV) of each subject, session and run.

    A trial has its onset in seconds from the first frame, nsd_id, the number of its image from 0,
    and the labels of its event: trial_id, and category_id or shared1000_category_id.
    `classes` has the class of each image, for tables without a column category_id.
    """
    rows = read_rows(path, *_NEEDED)
    columns = rows[0][1].keys() if rows else ()
    if ("category_id" in columns) == (classes is not None):
        fault, way = ("has no", "give") if classes is None else ("has a", "leave out")
        raise InputError(f"{path} {fault} column category_id: {way} --logits by image.")
    trials = collections.defaultdict(list)
    for number, row in rows:
        try:
            place = (row["sub"], to_count(row["ses"]), to_count(row["run"]))
            trials[place].append(_trial(row, classes))
        except ValueError:
            raise InputError(f"Line {number} of {path} is no trial of an image: mend it.") from None
    return dict(trials)


def read_classes(path: str | os.PathLike) -> np.ndarray:
    """(73000,) int: the class of each image, that of its largest logit."""
    logits = read_array(path)
    if logits.ndim != 2 or len(logits) != N_IMAGES or logits.dtype.kind != "f":
        raise InputError(
            f"{path} holds {logits.dtype} of {logits.shape}, not logits of {N_IMAGES:,} images."
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{path} holds logits that are not finite: make them again.")
    return logits.argmax(1)


def _trial(row: dict[str, str], classes: np.ndarray | None) -> Event:
    nsd_id, onset = to_count(row["nsd_id"]), to_number(row["onset"])
    if nsd_id >= N_IMAGES or onset is None:
        raise ValueError(f"no image {nsd_id}, or no onset")
    category = to_count(row["category_id"]) if "category_id" in row else int(classes[nsd_id])
    name = "category_id" if row.get("split") != _SHARED else f"{_SHARED}_category_id"
    labels = {name: category} | (
        {"trial_id": to_count(row["trial_id"])} if "trial_id" in row else {}
    )
    return {"onset": onset, "nsd_id": nsd_id} | labels


def _place(run: RunFiles) -> tuple[str, int, int]:
    return run.fields["subject"], run.fields["session"], run.fields["run"]


def _labelled(
    run: RunFiles,
    table: dict[tuple[str, int, int], list[Event]] | None,
    classes: np.ndarray | None,
    source: str,
) -> RunFiles:
    trials = None if table is None else table.get(_place(run), [])
    read = run.read_events
    # Without a design there are no events; that is an error where trials should be among them.
    if read is not None or trials:
        about = {"trials": trials, "classes": classes, "name": run.key}
        read = functools.partial(_read_labelled, read, **about)
    return dataclasses.replace(run, fields=run.fields | {"labels_from": source}, read_events=read)


def _read_labelled(
    read: Callable[[], list[Event]] | None,
    trials: list[Event] | None,
    classes: np.ndarray | None,
    name: str,
) -> list[Event]:
    """The events of a run with the classes of their images, or with the labels of trials."""
    events = read() if read else []
    if trials is None:
        return [event | {"category_id": int(classes[event["nsd_id"]])} for event in events]
    labels, lost = {}, []
    for trial in trials:
        found = [
            i
            for i, event in enumerate(events)
            if event["nsd_id"] == trial["nsd_id"]
            and abs(event["onset"] - trial["onset"]) < _TOLERANCE
        ]
        labels |= dict.fromkeys(found, trial)
        lost += [] if found else [trial]
    if lost:
        image, onset = lost[0]["nsd_id"], lost[0]["onset"]
        raise InputError(
            f"{len(lost)} of {len(trials)} included trials are not in the design of {name}, such "
            f"as image {image} at {onset:g} s: give the table of these designs."
        )
    # The onset stays that of the design.
    return [labels.get(i, {}) | event for i, event in enumerate(events)]
