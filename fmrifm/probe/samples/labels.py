"""What is to be read: the language of `target`, its classes, and bins of numbers.

Letters: S samples, E numbers of a label.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.json_files import read_json
from data_tools.files.npy import read_array
from data_tools.published.published_split import find_split_file
from data_tools.readers.tables import UNKNOWN, read_rows, to_number
from data_tools.store.identity import bare_label, persons, some_of, twins_but_for_case
from data_tools.store.selection import is_known

ARROW = ("forward", "reversed")

Record = dict[str, Any]  # an event, or a line of the run table


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is to be read, and where it is written.

    Attributes:
      text: as the config has it.
      kind: event, run, table, array or time.
      field: of the event or the run; of a table the column.
      classes: class of each value of the field, by its text; None takes the values themselves.
      rows: class (n,) int, or numbers (n,) or (n, E) float, of each row that the field's value is
        the number of; None for none.
      table: value by subject, or by subject and session, "" for an unknown one; None for none.
      people: subjects of stores by what they are called in the table, see `join_people`.
    """

    text: str
    kind: str
    field: str
    classes: dict[str, str] | None = None
    rows: np.ndarray | None = None
    table: dict[tuple[str, ...], str] | None = None
    people: dict[str, str] = dataclasses.field(default_factory=dict)

    def is_of_events(self, runs: Iterable[Record]) -> bool:
        """Whether it is events that it is written in: an array's field may be of either."""
        if self.kind != "array":
            return self.kind == "event"
        events = (event for run in runs for event in run.get("events") or [])
        return any(is_known(event.get(self.field)) for event in events)

    def label(self, record: Record) -> str | None:
        """The class of an event or a run, None if it has none."""
        value = self._value(record)
        if value is None or (self.classes is None and str(value).strip().lower() in UNKNOWN):
            return None
        return str(value)

    def numbers(self, record: Record) -> np.ndarray | None:
        """(E,) float32 of an event or a run, None if one is missing or NaN.

        Raises:
          ValueError: the value is a text or a list, which is no number, or infinite.
        """
        value = self._value(record)
        if value is None or str(value).strip().lower() in UNKNOWN:
            return None
        if isinstance(value, str) and (value := to_number(value)) is None:
            raise ValueError("a text")
        if isinstance(value, list | dict):
            raise ValueError("several values")
        numbers = np.atleast_1d(np.asarray(value, np.float32))
        if np.isinf(numbers).any():
            raise ValueError("infinite")
        return None if np.isnan(numbers).any() else numbers

    def order(self, labels: Collection[str]) -> list[str]:
        """The classes among labels: as their file has them, else numbers by value, or by text."""
        found = set(labels)
        if self.classes is not None:
            return [name for name in dict.fromkeys(self.classes.values()) if name in found]
        numbers = all(re.fullmatch(r"-?\d+", label) for label in found)
        return sorted(sorted(found), key=int if numbers else str)

    def _value(self, record: Record) -> Any:
        """The class, number, text or row of a record, None if it has none."""
        if self.table is not None:
            subject, session = person_of(record)
            subject = self.people.get(subject, subject)
            return self.table.get((subject, session), self.table.get((subject,)))
        value = record.get(self.field)
        if not is_known(value) or (isinstance(value, float) and math.isnan(value)):
            return None
        if self.rows is not None:
            row = int(float(value)) if re.fullmatch(r"[0-9]+(\.0)?", str(value)) else None
            return self.rows[row] if row is not None and row < len(self.rows) else None
        return value if self.classes is None else self.classes.get(str(value))


@dataclasses.dataclass(frozen=True)
class Binning:
    """Cuts numbers into classes such as "<30", "30 to 45" and ">=45".

    Attributes:
      edges: ascending; a number that is an edge is of the class above it.
      quantiles: number of classes of about one size that the training labels are cut into, in
        place of edges; 0 for none.
    """

    edges: tuple[float, ...] = ()
    quantiles: int = 0

    def __post_init__(self):
        """Raises InputError unless it is either edges that ascend or two quantiles or more."""
        if bool(self.edges) == bool(self.quantiles) or self.quantiles == 1 or self.quantiles < 0:
            raise InputError("Bins are edges, or a number of quantiles from 2: give one of them.")
        if not np.isfinite(self._cuts).all() or not (np.diff(self._cuts) > 0).all():
            raise InputError(f"The edges of bins {self.edges} do not ascend: sort them.")

    @property
    def names(self) -> list[str]:
        """The classes, from low to high."""
        # As short as float32 can be told apart.
        texts = [np.format_float_positional(cut, trim="-") for cut in self._cuts]
        middle = [f"{low} to {high}" for low, high in zip(texts, texts[1:], strict=False)]
        return [f"<{texts[0]}", *middle, f">={texts[-1]}"]

    def fit(self, labels_SxE: np.ndarray) -> "Binning":
        """The bins with edges: for quantiles, those of the training labels.

        Args:
          labels_SxE: (S, 1) float32, the labels of the training set.
        """
        values = _single(labels_SxE)
        if not self.quantiles:
            return self
        cuts = np.quantile(values, np.arange(1, self.quantiles) / self.quantiles)
        cuts = np.unique(cuts.astype(np.float32))
        counts = np.bincount(np.searchsorted(cuts, values, side="right"), minlength=self.quantiles)
        if len(cuts) + 1 < self.quantiles or not counts.all():
            raise InputError(
                f"The training labels have too few values to be cut into {self.quantiles} "
                "quantiles: take fewer, or give edges."
            )
        return Binning(edges=tuple(cuts.tolist()))

    def cut(self, labels_SxE: np.ndarray) -> np.ndarray:
        """(S,) str classes of (S, 1) float32 numbers, once the bins have edges."""
        values = _single(labels_SxE)
        return np.array(self.names)[np.searchsorted(self._cuts, values, side="right")]

    def order(self, labels: Collection[str]) -> list[str]:
        """The classes among labels, from low to high."""
        found = set(labels)
        return [name for name in self.names if name in found]

    @property
    def _cuts(self) -> np.ndarray:
        # Labels are float32, and an edge must compare with them as equal where it is.
        return np.array(self.edges, np.float32)


def parse_target(text: str) -> Target:
    """Reads the language of `target` in a probe's config.

    Args:
      text: one of

        event:FIELD[;MAP]     a field of the events; with a map the classes it gives the values:
                              JSON {value: class}, or an object with these as "labels"; what is not
                              in it is left out. MAP is a path, or the name of a published split
        run:FIELD[;MAP]       the same of a field of the run table
        table:FILE:COLUMN     a column of a CSV or TSV file, joined on its column subject (or
                              participant_id), and on its column session where it has one
        array:FILE.npy:FIELD  the row of an array that a field of the events, or else of the runs,
                              is the number of: integers are classes, floats (n,) or (n, E) numbers
        time:arrow            whether a clip is played forward or reversed

    Raises:
      InputError: it is none of these, or a file cannot be read.
    """
    if match := re.fullmatch(r"(event|run):([\w.-]+)(?:;(.+))?", text):
        kind, field, classes = match.groups()
        return Target(text, kind, field, classes and _read_classes(find_split_file(classes)))
    if match := re.fullmatch(r"table:(.+\.(?:csv|tsv)):([^:]+)", text, re.IGNORECASE):
        return Target(text, "table", match[2], table=_read_values(Path(match[1]), match[2]))
    if match := re.fullmatch(r"array:(.+\.npy):([\w.-]+)", text):
        return Target(text, "array", match[2], rows=_read_rows(Path(match[1])))
    if text == "time:arrow":
        return Target(text, "time", "arrow")
    raise InputError(
        f"target={text!r} is none that a probe can read: give event:FIELD[;MAP.json], "
        "run:FIELD[;MAP.json], table:FILE.csv:COLUMN, array:FILE.npy:FIELD or time:arrow."
    )


def _single(labels_SxE: np.ndarray) -> np.ndarray:
    if labels_SxE.ndim != 2 or labels_SxE.shape[1] != 1:
        raise InputError("Bins cut single numbers, and these labels are none: take another target.")
    return labels_SxE[:, 0]


def _read_classes(path: Path) -> dict[str, str]:
    values = read_json(path, "give a map {value: class}")
    try:
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
    rows = read_array(path)
    is_classes = rows.dtype.kind in "iu" and rows.ndim == 1
    is_numbers = rows.dtype.kind == "f" and rows.ndim in (1, 2) and rows.size
    if not (is_classes or is_numbers):
        raise InputError(
            f"{path} is no list of integers, a class a row, and no array of floats (n,) or (n, E): "
            "give another."
        )
    return rows


def _read_values(path: Path, column: str) -> dict[tuple[str, ...], str]:
    """The values of a column by subject, or by subject and session; "" where it is unknown."""
    rows = read_rows(path, ("subject", "participant_id"), column)
    # BIDS calls the subject participant_id.
    rows = [(n, {"subject": row.get("participant_id")} | row) for n, row in rows]
    rows = [(n, row) for n, row in rows if person_of(row)[0].lower() not in UNKNOWN]
    names = persons({person_of(row)[0] for _, row in rows})
    labels: dict[str, str] = {}
    first: dict[tuple[str, ...], tuple[int, str]] = {}
    for number, row in rows:
        value = row[column].strip()
        value = "" if value.lower() in UNKNOWN else value
        subject, session = person_of(row)
        label = labels.setdefault(names[subject], subject)
        person = (label, session) if "session" in row else (label,)
        line, earlier = first.setdefault(person, (number, value))
        if value and not earlier:
            first[person] = number, value
        elif value and earlier != value:
            # Without who it is and what is said: both may have to stay in this table.
            raise InputError(
                f"Lines {line} and {number} of {path} are of one subject and disagree in "
                f"'{column}': leave one."
            )
    return {person: value for person, (_, value) in first.items()}


def person_of(record: Record) -> tuple[str, str]:
    """Subject and session of a run or of a row of a table, without what BIDS puts before them."""
    subject, session = (str(record.get(name) or "").strip() for name in ("subject", "session"))
    return subject.removeprefix("sub-"), bare_label(session.removeprefix("ses-"))


def join_people(
    runs: Iterable[Record], target: Target, show: bool = True, most_lost: float = 0.5
) -> Target:
    """The target of a table with the people of its rows found among those of runs.

    Prints how many have no row. InputError if more than the share `most_lost` have none, or if a
    row, which knows no dataset, could mean either of two people. Names are shown if `show`.
    """
    people = [(person_of(run)[0], str(run["dataset"])) for run in runs if is_known(run["subject"])]
    people = list(dict.fromkeys(people))
    known = {subject for subject, *_ in target.table}
    names = persons({subject for subject, _ in people}, known)
    rows, datasets = {names[label]: label for label in known}, {}
    for subject, dataset in people:
        other = datasets.setdefault(names[subject], dataset)
        if names[subject] in rows and other != dataset:
            raise InputError(
                f"{other} and {dataset} both have a subject{f' {subject}' if show else ''}, and "
                f"{target.text} does not say whose values it has: keep one of the datasets with "
                "'?dataset=NAME'."
            )
    lost = {subject for subject, _ in people if names[subject] not in rows}
    if lost:
        such = f", such as {some_of(lost)}" if show else ""
        twins = len(twins_but_for_case({names[subject] for subject in lost}, rows))
        case = f" ({twins} of them differ from a row in case only)" if twins else ""
        said = f"{len(lost)} of {len(people)} subjects have no row in {target.text}{such}{case}"
        if len(lost) > most_lost * len(people):
            raise InputError(
                f"{said}: write the subjects as the store has them, or choose those of the table "
                "with '?subject=FILE'."
            )
        print(f"{said}.")
    found = {subject for subject, _ in people} - lost
    return dataclasses.replace(target, people={x: rows[names[x]] for x in found})
