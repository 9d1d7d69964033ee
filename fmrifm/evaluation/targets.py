"""Labelled samples: which clips, and what should be read from them."""

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.published.splits import find_split_file
from fmrifm.input.clips import Clips, event_starts
from fmrifm.input.sources import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is to be read from the clip of an event.

    Attributes:
      text: as the config has it.
      field: of the event.
      classes: class of each value of the field, by its text; None takes the values themselves.
      rows: class of each row that the field's value is the number of; None for none.
    """

    text: str
    field: str
    classes: dict[str, str] | None = None
    rows: np.ndarray | None = None

    def label(self, event: dict[str, Any]) -> str | None:
        """The class of an event, None if it has none."""
        value = event.get(self.field)
        if value is None:
            return None
        if self.rows is not None:
            known = isinstance(value, int) and 0 <= value < len(self.rows)
            return str(self.rows[value]) if known else None
        return str(value) if self.classes is None else self.classes.get(str(value))

    def order(self, labels: Collection[str]) -> list[str]:
        """The classes among labels: as their file has them, else numbers by value, or by text."""
        found = set(labels)
        if self.classes is not None:
            return [name for name in dict.fromkeys(self.classes.values()) if name in found]
        numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
        return sorted(sorted(found), key=int if numbers else str)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Labelled clips.

    Attributes:
      clips: where they lie.
      labels: (C,) str.
      keys: (C,) str, keys of their runs.
      subjects: (C,) str, dataset/subject.
    """

    clips: Clips
    labels: np.ndarray
    keys: np.ndarray
    subjects: np.ndarray


def parse_target(text: str) -> Target:
    """Reads the language of `target` in a probe's config.

    Args:
      text: `event:FIELD` takes the values of a field of the events, `event:FIELD;MAP` the classes
        that a file gives them: JSON {value: class}, or an object with these as "labels"; events
        whose value is not in it are left out. MAP is a path, or the name of a published split.
        `array:FILE.npy:FIELD` takes the row of an array of integers that the field names.

    Raises:
      InputError: it is none of these, or a file cannot be read.
    """
    event = re.fullmatch(r"event:([\w.-]+)(?:;(.+))?", text)
    if event:
        return Target(text, event[1], event[2] and _read_classes(find_split_file(event[2])))
    array = re.fullmatch(r"array:(.+\.npy):([\w.-]+)", text)
    if array:
        return Target(text, array[2], rows=_read_rows(Path(array[1])))
    raise InputError(
        f"target={text!r} is none that a probe of clips can read: give event:FIELD, "
        "event:FIELD;MAP.json or array:FILE.npy:FIELD."
    )


def event_samples(
    sources: list[Source], target: Target, num_frames: int, hrf_delay: float = 0.0
) -> Samples:
    """One clip an event that has a class, from int((onset + delay) / TR).

    Raises:
      InputError: no event has a class and starts a whole clip.
    """
    rows = []
    for s, source in enumerate(sources):
        for r in source.runs:
            run = source.store.runs[r]
            starts, events = event_starts(run, source.store.tr, num_frames, hrf_delay)
            for start, event in zip(starts, events, strict=True):
                label = target.label(event)
                if label is not None:
                    subject = f"{run['dataset']}/{run['subject']}"
                    rows.append((s, r, start, label, run["key"], subject))
    if not rows:
        raise InputError(
            f"No event of {sources[0].store.path} has a field '{target.field}' with a class and "
            "starts a whole clip."
        )
    source, run, start, labels, keys, subjects = map(np.array, zip(*rows, strict=True))
    clips = Clips(source.astype(int), run.astype(int), start.astype(int))
    return Samples(clips, labels.astype(str), keys.astype(str), subjects.astype(str))


def _read_classes(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text())
        values = values.get("labels", values)
        if any(isinstance(name, dict | list) for name in values.values()):
            raise ValueError("a class is a name")
        classes = {str(value): str(name) for value, name in values.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is no JSON object {{value: class}}: give another.") from error
    if not classes:
        raise InputError(f"{path} has no classes: give a map {{value: class}}.")
    return classes


def _read_rows(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path} does not exist: check the target.")
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): get it again.") from error
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(f"{path} is no list of integers, a class a row: give another.")
    return rows
