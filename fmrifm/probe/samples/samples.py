"""Labelled samples: which clips belong to each, and what should be read from them.

A sample is a clip, a run, a session or a subject. Longer ones have the consecutive windows of their
runs as clips, side by side; a short tail is dropped. Letters: S samples, C clips, E numbers of a
label.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.store.selection import field_names, is_known
from fmrifm.input.clips import Clips, event_starts
from fmrifm.input.sources import Source
from fmrifm.probe.samples.labels import ARROW, Record, Target, parse_target

UNITS = ("clip", "run", "session", "subject")
TASKS = ("classification", "regression")


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Labelled samples and their clips.

    Attributes:
      clips: (C,) where they lie; those of a sample side by side.
      first_S1: (S + 1,) int64: sample s has the clips first_S1[s] to first_S1[s + 1].
      labels: (S,) str classes, or (S, E) float32.
      keys: (S,) str: key of the run; of a session or a subject "dataset/subject[/session]".
      starts: (S,) int64: first frame of the first clip.
      subjects: (S,) str, "dataset/subject".
      n_frames_C: (C,) int64: frames that a clip has: fewer than a window where its run is shorter.
      reversed_C: (C,) bool: which clips are played backwards; None for none.
      n_unlabelled: samples left out of the whole set as they have no label.
      n_dropped_frames: frames of the runs of the whole set that are in no window: at their ends,
        and between windows that were spread.
    """

    clips: Clips
    first_S1: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    subjects: np.ndarray
    n_frames_C: np.ndarray
    reversed_C: np.ndarray | None = None
    n_unlabelled: int = 0
    n_dropped_frames: int = 0

    def __len__(self) -> int:
        return len(self.keys)


@dataclasses.dataclass
class _Sample:
    """A sample to be; windows are of (source, run, start, frames)."""

    label: Any
    key: str
    subject: str
    windows: list[tuple[int, int, int, int]]
    n_dropped: int = 0
    is_reversed: bool = False


def make_samples(
    sources: list[Source],
    target: Target,
    *,
    unit: str,
    num_frames: int,
    hrf_delay: float = 0.0,
    task: str = "classification",
    windows: int = 0,
) -> Samples:
    """The samples of a unit that have a label.

    Args:
      target: what is to be read. One of events labels the clips of events, from
        int((onset + hrf_delay) / TR); others all windows of the runs. Numbers that are to be cut
        into classes are taken as for regression, and `Binning` cuts the labels.
      num_frames: of a clip. A run that is shorter is one clip of the frames it has.
      hrf_delay: seconds.
      windows: at most so many of a run, evenly spread over it; 0 for all. The clips of events are
        all taken.

    Raises:
      InputError: unit, task and target do not go together, runs of a session or a subject disagree,
        a label of regression is no number, or no sample has a label.
    """
    runs = [run for source in sources for run in source.lines]
    of_events = target.is_of_events(runs)
    _check(target, unit, task, of_events)
    if of_events:
        candidates = _events(sources, target, task, num_frames, hrf_delay)
    else:
        candidates = _groups(sources, target, task, unit, num_frames, windows)
    candidates = list(candidates)
    found = [sample for sample in candidates if sample.label is not None]
    if not found:
        raise InputError(_nobody(sources, runs, target, of_events))
    if target.kind == "run" and target.field == "subject" and task == "classification":
        _check_identities(found)
    return _pack(found, task, target.kind == "time", len(candidates) - len(found))


def whole_runs(sources: list[Source], num_frames: int, windows: int = 0) -> Samples:
    """Every run of some stores as a sample, with its key as its label; see `make_samples`."""
    target = parse_target("run:key")
    return make_samples(sources, target, unit="run", num_frames=num_frames, windows=windows)


def _check(target: Target, unit: str, task: str, of_events: bool) -> None:
    for name, value, choices in (("unit", unit, UNITS), ("task", task, TASKS)):
        if value not in choices:
            raise InputError(f"{name} has no '{value}': choose of {', '.join(choices)}.")
    if unit != "clip" and (of_events or target.kind == "time"):
        raise InputError(f"{target.text} is a state, which belongs to a clip: set unit=clip.")
    if task == "regression" and target.kind == "time":
        raise InputError(f"{target.text} has two classes: set task=classification.")
    is_numbers = target.rows is not None and target.rows.dtype.kind == "f"
    if task == "classification" and is_numbers:
        raise InputError(f"{target.text} has numbers, not classes: set task=regression or bins.")


def _windows(s: int, r: int, run: Record, num_frames: int, most: int) -> tuple[list[tuple], int]:
    """The windows of a run, and how many of its frames are in none."""
    n_frames = run["n_frames"]
    starts = range(0, max(n_frames - num_frames, 0) + 1, num_frames)
    if 0 < most < len(starts):
        starts = [starts[(2 * k + 1) * len(starts) // (2 * most)] for k in range(most)]
    length = min(num_frames, n_frames)
    return [(s, r, start, length) for start in starts], n_frames - length * len(starts)


def _all_runs(sources: list[Source]) -> Iterator[tuple[int, int, Record]]:
    for s, source in enumerate(sources):
        for r in source.runs:
            yield s, int(r), source.store.runs[r]


def _subject(run: Record) -> str:
    return f"{run['dataset']}/{run['subject']}"


def _events(
    sources: list[Source], target: Target, task: str, num_frames: int, hrf_delay: float
) -> Iterator[_Sample]:
    for s, r, run in _all_runs(sources):
        store = sources[s].store
        for start, event in zip(*event_starts(run, store.tr, num_frames, hrf_delay), strict=True):
            label = _label(target, task, event, f"An event of {run['key']}", store.restricted)
            yield _Sample(label, run["key"], _subject(run), [(s, r, int(start), num_frames)])


def _groups(
    sources: list[Source], target: Target, task: str, unit: str, num_frames: int, most: int
) -> Iterator[_Sample]:
    """Clips, runs, sessions or subjects of a target of runs; of time each clip both ways."""
    groups = collections.defaultdict(list)
    for s, r, run in _all_runs(sources):
        groups[(s, r) if unit in ("clip", "run") else _name(run, unit)].append((s, r, run))
    for name, members in groups.items():
        members.sort(key=lambda member: member[2]["key"])
        key = members[0][2]["key"] if unit in ("clip", "run") else name
        label, windows, dropped = None, [], 0
        for s, r, run in members:
            hidden = sources[s].store.restricted
            other = _label(target, task, run, f"Run {run['key']}", hidden)
            if label is not None and other is not None and not np.array_equal(label, other):
                raise InputError(
                    f"The runs of the {unit} {key} disagree in {target.text}: choose a smaller "
                    "unit, or filter the runs."
                )
            label = other if label is None else label
            mine, unused = _windows(s, r, run, num_frames, most)
            windows += mine
            dropped += unused
        if unit == "clip":
            labels = ARROW if target.kind == "time" else (label,)
            for window, (backwards, label) in itertools.product(windows, enumerate(labels)):
                yield _Sample(label, key, _subject(run), [window], dropped, bool(backwards))
                dropped = 0  # The tail of a run is counted once.
        else:
            yield _Sample(label, key, _subject(run), windows, dropped)


def _name(run: Record, unit: str) -> str:
    """ "dataset/subject[/session]" of a run."""
    if not is_known(run["subject"]):
        raise InputError(
            f"Run {run['key']} has no subject, so it belongs to no {unit}: give "
            "'STORE?subject=?*' to leave such runs out."
        )
    has_session = unit == "session" and is_known(run["session"])
    return f"{_subject(run)}/{run['session']}" if has_session else _subject(run)


def _label(target: Target, task: str, record: Record, name: str, restricted: frozenset) -> Any:
    if task == "classification":
        return target.label(record)
    try:
        return target.numbers(record)
    except ValueError as error:
        hide = target.field in restricted or target.table is not None
        text = "a value" if hide else repr(record.get(target.field))
        raise InputError(
            f"{name} has {text} for {target.text} that is no number: mend it, or set "
            "task=classification."
        ) from error


def _nobody(sources: list[Source], runs: list[Record], target: Target, of_events: bool) -> str:
    where = sources[0].store.path
    if of_events:
        fields = field_names(event for run in runs for event in run.get("events") or [])
        if target.field in fields:
            return (
                f"No event of {where} with a class in '{target.field}' starts a whole clip: check "
                "the map of the target, and how long runs go on after events."
            )
        return (
            f"No event of {where} has a field '{target.field}': choose one of "
            f"{', '.join(fields) or 'none, as there are no events'}."
        )
    if target.table is not None:
        return (
            f"No run of {where} has a value in {target.text}: write subjects, and sessions, as the "
            f"store has them, such as '{runs[0]['subject']}'."
        )
    return (
        f"No run of {where} has a field '{target.field}' with a label: choose one of "
        f"{', '.join(field_names(runs))}."
    )


def _check_identities(found: list[_Sample]) -> None:
    """Raises InputError where two people of different datasets have one label."""
    people: dict[str, str] = {}
    for sample in found:
        other = people.setdefault(sample.label, sample.subject)
        if other != sample.subject:
            raise InputError(
                f"{other} and {sample.subject} are two people with one label: keep one of the "
                "datasets with '?dataset=NAME'."
            )


def _pack(found: list[_Sample], task: str, has_reversed: bool, n_unlabelled: int) -> Samples:
    counts = [len(sample.windows) for sample in found]
    table = np.array([window for sample in found for window in sample.windows], np.int64)
    first_S1 = np.concatenate([[0], np.cumsum(counts)])
    backwards = np.repeat([sample.is_reversed for sample in found], counts)
    labels = [sample.label for sample in found]
    return Samples(
        clips=Clips(table[:, 0], table[:, 1], table[:, 2]),
        first_S1=first_S1,
        labels=np.stack(labels) if task == "regression" else np.array(labels),
        keys=np.array([sample.key for sample in found]),
        starts=table[first_S1[:-1], 2],
        subjects=np.array([sample.subject for sample in found]),
        n_frames_C=table[:, 3],
        reversed_C=backwards if has_reversed else None,
        n_unlabelled=n_unlabelled,
        n_dropped_frames=sum(sample.n_dropped for sample in found),
    )
