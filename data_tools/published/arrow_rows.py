"""How the rows of a published dataset become runs: their keys, fields, labels and events."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, unknown
from data_tools.files.json_files import read_json
from data_tools.files.remote import base_name, is_url
from data_tools.published.arrow import Row, read_rows, read_sizes, read_values
from data_tools.published.source import PublishedRun, Source
from data_tools.readers.surface_run import told_tr
from data_tools.store.checks import RESERVED

UNLABELLED = ("refuse", "drop", "keep")
# What tells runs apart, in the order of our keys.
_ENTITIES = ("sub", "ses", "visit", "mod", "task", "mag", "dir", "acq", "run", "segment")
# What tells clips of one run apart, beside their start.
_TRIALS = {"trial_id": "trial", "cond": "cond", "trial_type": "cond"}
_NO_LABELS = frozenset({*_ENTITIES, "key", "__key__", "site", "dataset", "path"}) | {
    *("start", "end", "tr", "n_frames")
}
_RESERVED = (RESERVED | {"qc", "source"}) - {"tr"}


@dataclasses.dataclass(frozen=True)
class Join:
    """Labels that are kept in a file beside a dataset: {key: label}.

    Attributes:
      name: of the label.
      labels: by key, letters and digits alone.
      columns: whose values make the key of a row.
    """

    name: str
    labels: dict[str, str | int | float]
    columns: tuple[str, ...]

    def label(self, row: Row) -> str | int | float | None:
        """The label of a row, None if the file has none."""
        return self.labels.get(_bare("".join(str(row.get(name, "")) for name in self.columns)))

    def checksum(self) -> str:
        """What tells this join from one of other labels or columns."""
        text = json.dumps([self.columns, self.labels], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class RowForm:
    """What rows are, and which of their columns are labels.

    Attributes:
      clips: whether they are clips of runs, rather than whole runs.
      labels: columns that are labels; None takes all that are none of the usual others.
      joins: labels from elsewhere.
      unlabelled: what to do with rows that lack a label: refuse, drop or keep them.
      restricted: labels that must not be shown; they are in the run table alone, since only its
        fields can be hidden.
    """

    clips: bool = False
    labels: tuple[str, ...] | None = None
    joins: tuple[Join, ...] = ()
    unlabelled: str = "refuse"
    restricted: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """All of this for `store.json`."""
        return {
            "as": "clips" if self.clips else "runs",
            "labels": None if self.labels is None else list(self.labels),
            "unlabelled": self.unlabelled,
            "join": {join.name: join.checksum() for join in self.joins},
            "restricted": sorted(self.restricted),
        }

    def with_joins(self, row: Row) -> Row:
        """The row with the labels that are kept elsewhere."""
        return row | {join.name: join.label(row) for join in self.joins}

    def label_names(self, row: Row) -> list[str]:
        """The labels of a row that has its joins."""
        if self.labels is not None:
            return [*dict.fromkeys([*self.labels, *(join.name for join in self.joins)])]
        return [name for name in row if name not in _NO_LABELS]

    def label_fields(self, row: Row) -> list[str]:
        """What the run table calls the labels of a row, as it was read."""
        row = self.with_joins(row)
        return [field_name(name, row) for name in self.label_names(row)]

    def fields(self, row: Row) -> dict[str, Any]:
        """What the run table says of a row, as it was read."""
        row = self.with_joins(row)
        return {field_name(name, row): value for name, value in row.items() if _says(value)}

    def takes(self, row: Row) -> bool:
        """Whether a row, as it was read, is imported."""
        return self.unlabelled != "drop" or not self.lacks(self.with_joins(row))

    def lacks(self, row: Row) -> list[str]:
        """The labels that a row with its joins does not have."""
        return [name for name in self.label_names(row) if not _says(row.get(name))]

    def key(self, row: Row) -> str:
        """The name of a row as a run."""
        for name in ("key", "__key__"):
            if _says(row.get(name)):
                return str(row[name])
        parts = [f"{name}-{row[name]}" for name in _ENTITIES if _says(row.get(name))]
        if self.clips:
            start, tr = row.get("start"), told_tr(row.get("tr"))
            if _says(start):
                # In frames as it stands, or in seconds where it is no integer.
                frame = round(start / tr) if isinstance(start, float) and tr else int(start)
                parts.append(f"start-{frame:05d}")
            trial = next((name for name in _TRIALS if _says(row.get(name))), None)
            if trial:
                parts.append(f"{_TRIALS[trial]}-{row[trial]}")
        return "_".join(parts) or "run"

    def run(self, row: Row, arrays: dict[str, np.ndarray]) -> PublishedRun:
        """A row as a run."""
        key, tr = self.key(row), told_tr(row.get("tr"))
        if "bold" not in arrays or tr is None:
            raise InputError(f"Row {key} has no {'TR' if 'bold' in arrays else 'bold'}: mend it.")
        duration = round(len(arrays["bold"]) * tr, 6)
        events = [self._event(self.with_joins(row), duration)] if self.clips else None
        scale = [arrays[part].reshape(-1) if part in arrays else None for part in ("mean", "std")]
        return PublishedRun(key, arrays["bold"], tr, self.fields(row), events, *scale)

    def _event(self, row: Row, duration: float) -> dict[str, Any]:
        """What a clip shows, from its begin to its end."""
        shown = {name: row.get(name) for name in row if name not in self.restricted}
        event = {name: shown.get(name) for name in self.label_names(row)}
        event["trial_type"] = shown.get("trial_type" if "trial_type" in row else "cond")
        event |= {"onset": 0.0, "duration": duration}  # whatever columns are called so
        return {name: value for name, value in event.items() if _says(value)}


def are_clips(rows: Iterable[Row]) -> bool:
    """Whether rows are clips: some begin at other times than others."""
    return len({row["start"] for row in rows if _says(row.get("start"))}) > 1


def read_join(text: str) -> Join:
    """The labels that `NAME=FILE.json[@COLUMN[+COLUMN]]` stands for."""
    match = re.fullmatch(r"([\w.-]+)=(.+?)(?:@([\w+]+))?", text)
    if not match:
        raise InputError(f"--join={text} is not NAME=FILE.json@COLUMN: mend it.")
    name, path, columns = match.groups()
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist: check --join={text}.")
    values = read_json(path, "give another with --join", object)
    kinds = str | int | float | None
    if not isinstance(values, dict) or not all(isinstance(x, kinds) for x in values.values()):
        raise InputError(f"{path} is no JSON object of labels: give another with --join.")
    labels: dict[str, str | int | float] = {}
    for key, value in values.items():
        if _says(value) and labels.setdefault(_bare(key), value) != value:
            raise InputError(f"{path} has two labels of '{key}', written in two ways: mend it.")
    return Join(name, labels, tuple((columns or "sub").split("+")))


def check_labels(rows: Sequence[Row], form: RowForm, split: str) -> int:
    """How many rows of a split lack labels and are to be dropped."""
    if not rows:
        raise InputError(f"The split '{split}' has no row to import: leave it out with --splits.")
    for join in form.joins:
        if missing := [name for name in join.columns if name not in rows[0]]:
            what = f"The split '{split}' has no column '{missing[0]}' for --join={join.name}"
            raise unknown(what, rows[0])
        if join.name in rows[0]:
            raise InputError(
                f"The split '{split}' has a column '{join.name}' already: give --join={join.name} "
                "another name."
            )
    rows = [form.with_joins(row) for row in rows]
    names = form.label_names(rows[0])
    if missing := [name for name in names if name not in rows[0]]:
        columns = [name for name in rows[0] if name not in _NO_LABELS]
        raise unknown(f"The split '{split}' has no column '{missing[0]}' for a label", columns)
    lacking = [lacks for row in rows if (lacks := form.lacks(row))]
    if lacking and form.unlabelled == "refuse":
        name = lacking[0][0]
        count = sum(name in lacks for lacks in lacking)
        raise InputError(
            f"The label '{name}' is missing in {count:,} of {len(rows):,} rows of the split "
            f"'{split}': name the labels you need with --labels, or give --unlabelled=drop or keep."
        )
    if len(lacking) == len(rows) and form.unlabelled == "drop":
        raise InputError(
            f"All rows of the split '{split}' lack a label, such as '{lacking[0][0]}': name the "
            "labels you need with --labels, or leave the split out with --splits."
        )
    return len(lacking) if form.unlabelled == "drop" else 0


def field_name(name: str, row: Row) -> str:
    """What the run table calls a column of a row."""
    if name == "sub":
        return "subject"
    if name == "ses" or (name == "visit" and "ses" not in row):
        return "session"
    return f"row_{name}" if name in _RESERVED else name


def _says(value: object) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))


def _bare(text: object) -> str:
    return re.sub(r"[\W_]", "", str(text).lower())


def arrow_source(split: str, place: str, form: RowForm) -> Source:
    """A file of a split, "" where there are no splits, whose rows are of a form."""
    name = source_name(split, place)
    read, scan = (functools.partial(f, place, name, form) for f in (_read, _scan))
    return Source(name, read, scan, is_local=not is_url(place))


def source_name(split: str, place: str) -> str:
    """What messages and stores call a file of a split."""
    return f"{split}/{base_name(place)}" if split else base_name(place)


def read_split(split: str, places: Sequence[str], skip_damaged: bool) -> list[Row]:
    """The plain values of all rows of a split, "" where there are no splits.

    Damaged files are left out, if they are to be skipped, without a word: their sources tell.
    """
    rows = []
    with tqdm.tqdm(places, f"read {split}".strip(), unit="file", leave=False, delay=1) as bar:
        for place in bar:
            try:
                rows.extend(read_values(place, source_name(split, place)))
            except InputError:
                if not skip_damaged:
                    raise
    return rows


def _read(place: str, name: str, form: RowForm) -> Iterator[PublishedRun | Outcome]:
    for row, arrays in read_rows(place, name):
        if not form.takes(row):
            continue
        try:
            yield form.run(row, arrays)
        except InputError as error:
            yield Outcome(form.key(row), Path(name), f"{name}: {error}")


def _scan(place: str, name: str, form: RowForm) -> Iterator[tuple[str, int, int]]:
    for row, (n_frames, n_columns) in read_sizes(place, name):
        if form.takes(row):
            yield form.key(row), n_frames, n_columns
