"""The published splits of evaluation tasks: which runs of a store are in train, validation, test.

A split is a JSON file, those that ship with us are in `configs/splits`:

```
about       what it is, and where it is defined
target      what a probe reads, in the language of its config
clip        frames and TR (s) of the clips
derived     {field: {other field: pattern}}: a number in another field, for runs that lack the field
runs        {field: values} that every run must have; a value "3-7" is a range
complete    {field: values}: only subjects who have runs of all of them
splits      {name: {field: values}}, or several of these of which one must hold
expected    numbers that the definition states, of all splits or {name: number}: of subjects,
            sessions, runs, frames, clips, classes
labels      {value of the target's field: class}
```
Values are texts, as in "0-7" or "WM".
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.errors import InputError, check_file, check_file_name, unknown
from data_tools.files.json_files import read_json
from data_tools.files.remote import base_name, is_url
from data_tools.store.checks import check_onsets
from data_tools.store.selection import is_known

Run = dict[str, Any]
Conditions = dict[str, list[str]]

# What is counted in a split, and may be expected.
COUNTS = ("subjects", "sessions", "runs", "frames", "clips", "classes")
FOLDER = Path(__file__).parents[2] / "configs" / "splits"
TRAITS = FOLDER / "traits.json"


@dataclasses.dataclass(frozen=True)
class PublishedSplit:
    """A split as its file has it; see the module."""

    about: str
    target: str
    clip: dict[str, float]
    splits: dict[str, Conditions | list[Conditions]]
    derived: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    runs: Conditions = dataclasses.field(default_factory=dict)
    complete: Conditions = dataclasses.field(default_factory=dict)
    expected: dict[str, Any] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def field(self) -> str:
        """The field of events that the target reads."""
        return re.split(r"[:;]", self.target)[1 if self.target.startswith("event:") else -1]

    def label(self, event: Mapping[str, Any]) -> str | None:
        """The class of an event, or that it has one; None if it has none."""
        value = event.get(self.field)
        if value is None:
            return None
        return self.labels.get(str(value)) if self.labels else str(value)


def find_split_file(name: str) -> Path:
    """The file that a path or the name of a split that ships with us stands for.

    Raises:
      InputError: there is none.
    """
    if Path(name).is_file() or Path(name).is_symlink():
        return check_file(name)
    shipped = {path.stem: path for path in sorted(FOLDER.glob("*.json")) if path != TRAITS}
    if name not in shipped:
        raise unknown(f"{name} is no file and no split that ships with us", shipped)
    return shipped[name]


def read_split(name: str) -> PublishedSplit:
    """Reads the file of a split.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = find_split_file(name)
    try:
        split = PublishedSplit(**read_json(path))
        _check(split)
    except (ValueError, TypeError, AttributeError, re.error, RecursionError) as error:
        raise InputError(
            f"{path} is not the file of a split of runs ({error}): mend it."
        ) from error
    return split


def choose_runs(split: PublishedSplit, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each split, chosen from lines of run tables, in their order."""
    runs = [_derive(split, run) for run in runs]
    for run in runs:
        if not is_known(run.get("subject")):
            raise InputError(
                f"Run {run['key']} has no subject, so nobody can count it: give "
                "'STORE?subject=?*' to leave such runs out."
            )
        if not math.isclose(run["tr"], split.clip["tr"], rel_tol=1e-6):
            raise InputError(
                f"Run {run['key']} has a TR of {run['tr']:g} s and the split is of clips at "
                f"{split.clip['tr']:g} s: convert the runs with --target-tr={split.clip['tr']:g}."
            )
    runs = [run for run in runs if _matches(run, split.runs, runs)]
    chosen = {}
    for name, conditions in split.splits.items():
        several = conditions if isinstance(conditions, list) else [conditions]
        some = [run for run in runs if any(_matches(run, c, runs) for c in several)]
        for field, values in split.complete.items():
            found = collections.defaultdict(set)
            for run in some:
                found[run["subject"]].add(str(run.get(field)))
            some = [run for run in some if found[run["subject"]] >= set(values)]
        if not some:
            raise InputError(f"No run is in the split '{name}': {split.about}.")
        chosen[name] = some
    return chosen


def count_split(split: PublishedSplit, runs: Sequence[Run]) -> dict[str, Any]:
    """What is in a split: subjects, sessions, runs, frames, clips, and clips of each class."""
    labels = collections.Counter()
    for run in runs:
        check_onsets(run.get("events") or [], f"Run {run['key']}")
        for event in run.get("events") or []:
            if (label := split.label(event)) is not None:
                start = math.floor(round(event["onset"] / split.clip["tr"], 6))
                if 0 <= start <= run["n_frames"] - split.clip["frames"]:
                    labels[label] += 1
    return {
        "subjects": len({run["subject"] for run in runs}),
        "sessions": len({(run["subject"], run.get("session")) for run in runs}),
        "runs": len(runs),
        "frames": sum(run["n_frames"] for run in runs),
        "clips": sum(labels.values()),
        "classes": len(labels),
        "clips_of_class": dict(sorted(labels.items())) if split.labels else None,
    }


def list_keys(runs: Sequence[Run]) -> list[str]:
    """The keys of runs as they can stand in a list, a word a line."""
    keys = [run["key"] for run in runs]
    if unfit := [key for key in keys if len(key.split()) != 1]:
        raise InputError(f"The key '{unfit[0]}' holds spaces, which lists cannot: rename the run.")
    return keys


def describe_counts(split: PublishedSplit, counts: Mapping[str, dict[str, Any]]) -> str:
    """A table of what is in each split, and whether it is what the definition states."""
    lines = [split.about, f"{'split':<12}" + "".join(f"{column:>11}" for column in COUNTS)]
    for name, count in counts.items():
        lines.append(f"{name:<12}" + "".join(f"{count[column]:>11,}" for column in COUNTS))
    for what, expected in split.expected.items():
        stated = expected if isinstance(expected, dict) else dict.fromkeys(counts, expected)
        for name, number in stated.items():
            found = counts[name][what]
            verdict = "as published" if found == number else f"but {number:,} are published"
            lines.append(f"{name}: {what} {found:,}, {verdict}.")
    return "\n".join(lines)


def _check(split: PublishedSplit) -> None:
    """Raises a ValueError, or what comes of another type, where a split is not of its form."""
    if not split.splits or not {"frames", "tr"} <= split.clip.keys() or not split.field:
        raise ValueError("no splits, no clip, or no target")
    frames, tr = split.clip["frames"], split.clip["tr"]
    if not (type(frames) is int and frames > 0 and type(tr) in (int, float) and 0 < tr < math.inf):
        raise ValueError("the clip has no number of frames, or no TR")
    if not isinstance(split.about, str):
        raise ValueError("'about' is no text")
    if not all(isinstance(name, str) for name in split.labels.values()):
        raise ValueError("a label is no text")
    for name in split.splits:
        check_file_name(name, "The split")
    several = [c if isinstance(c, list) else [c] for c in split.splits.values()]
    for conditions in [split.runs, split.complete, *(one for some in several for one in some)]:
        for field, values in conditions.items():
            if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
                raise ValueError(f"the values of '{field}' are no list of texts")
    for what, stated in split.expected.items():
        numbers = stated if isinstance(stated, dict) else dict.fromkeys(split.splits, stated)
        if what not in COUNTS or numbers.keys() - split.splits.keys():
            raise ValueError(f"'{what}' expects what is not counted")
        if not all(type(number) is int for number in numbers.values()):
            raise ValueError(f"'{what}' expects what is no number")
    for places in split.derived.values():
        if any(re.compile(pattern).groups != 1 for pattern in places.values()):
            raise ValueError("a pattern that derives a field has not one group")


def _derive(split: PublishedSplit, run: Run) -> Run:
    """The run with the fields that it lacks and others tell."""
    told = {}
    for field, places in split.derived.items():
        for place, pattern in places.items():
            match = re.fullmatch(pattern, str(run.get(place, "")))
            if match and not is_known(run.get(field)):
                try:
                    told[field] = int(match[1])
                except (ValueError, TypeError):
                    raise InputError(
                        f"The pattern '{pattern}' of the split gives '{field}' of run "
                        f"{run['key']} as {match[1]!r}, which is no number: mend it."
                    ) from None
    return run | told


def _matches(run: Run, conditions: Conditions, runs: Sequence[Run]) -> bool:
    for field, values in conditions.items():
        if not is_known(run.get(field)) and not any(is_known(other.get(field)) for other in runs):
            raise InputError(
                f"No run has a '{field}', which the split needs: convert the runs so that they "
                "have it (batches come from convert_hcp --restricted-csv or --batches-table)."
            )
        found = str(run.get(field))
        spans = [re.fullmatch(r"(\d+)-(\d+)", value) for value in values]
        in_span = found.isdecimal() and any(
            int(span[1]) <= int(found) <= int(span[2]) for span in spans if span
        )
        if not (in_span or found in values):
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Trait:
    """A trait and how its published results were made.

    Attributes:
      about: what it is.
      target: what a probe reads, in the language of its config.
      label: the column that is the label.
      join: the label's file, as in `arrow_rows.read_join`; None where the folder has the column.
      target_tr, kind: how runs are resampled.
      splits: the splits of the folder.
    """

    about: str
    target: str
    label: str
    join: str | None
    target_tr: float
    kind: str
    splits: tuple[str, ...]


def read_trait(name: str, folder: str) -> Trait:
    """A published trait by name, such as "abide_dx", for a folder of its dataset."""
    table = json.loads(TRAITS.read_text())
    if name not in table["traits"]:
        raise unknown(f"{name} is no published trait", table["traits"])
    trait = table["traits"][name]
    named = trait.pop("folder")
    if base_name(folder).split(".")[0] != named.split(".")[0]:
        raise InputError(f"The trait {name} is of folders named {named}, not {folder}.")
    join = trait.pop("join", None)
    return Trait(
        **trait,
        **table["resample"],
        join=join and _with_path(join, folder),
        splits=tuple(table["splits"]),
    )


def _with_path(join: str, folder: str) -> str:
    """A join whose file is where it lies."""
    label, _, rest = join.partition("=")
    file = rest.split("@")[0]
    beside = Path(".") if is_url(folder) else Path(folder).absolute().parent
    for place in (beside / "targets", beside):
        if (place / file).is_file():
            return f"{label}={place / rest}"
    raise InputError(f"The labels {file} are not in {beside} or {beside}/targets: put them there.")
