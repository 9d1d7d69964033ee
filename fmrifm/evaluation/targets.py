"""Labelled samples: which clips, and what should be read from them."""

import dataclasses

import numpy as np

from data_tools.errors import InputError
from fmrifm.input.clips import Clips, event_starts
from fmrifm.input.sources import Source


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


def event_samples(
    sources: list[Source], field: str, num_frames: int, hrf_delay: float = 0.0
) -> Samples:
    """One clip an event that has the field, from int((onset + delay) / TR).

    Raises:
      InputError: no event has the field and starts a whole clip.
    """
    rows = []
    for s, source in enumerate(sources):
        for r in source.runs:
            run = source.store.runs[r]
            starts, events = event_starts(run, source.store.tr, num_frames, hrf_delay)
            for start, event in zip(starts, events, strict=True):
                if field in event:
                    subject = f"{run['dataset']}/{run['subject']}"
                    rows.append((s, r, start, event[field], run["key"], subject))
    if not rows:
        raise InputError(f"No event has a field '{field}' and starts a whole clip.")
    source, run, start, labels, keys, subjects = map(np.array, zip(*rows, strict=True))
    clips = Clips(source.astype(int), run.astype(int), start.astype(int))
    return Samples(clips, labels.astype(str), keys.astype(str), subjects.astype(str))
