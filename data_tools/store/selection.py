"""Some runs of a store: the language `PATH?field=pattern&field=FILE`.

hcp                               a store, all of its runs
hcp?task=REST*&subject=train.txt  runs whose fields match a pattern or a list in a file
hcp?subject=draw:16:1             those of 16 subjects, the first ones of draw 1
train=hcp?subject=train.txt       a name before it, where several are told apart
"""

import collections
import dataclasses
import fnmatch
import hashlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError, check_file, unknown
from data_tools.files.block_cache import BlockCache
from data_tools.store.identity import name_people, persons, some_of
from data_tools.store.reader import Store

# What of a run is no single value, and so no field to choose by.
_LISTS = frozenset({"confounds", "events", "missing", "qc"})
_DRAW = re.compile(r"draw:(\d+):(\d+)")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Some runs of a store.

    Attributes:
      store: the open store.
      runs: (R,) int, places in `store.runs`.
    """

    store: Store
    runs: np.ndarray

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of these runs in `runs.jsonl`."""
        return [self.store.runs[run] for run in self.runs]


def open_selection(
    text: str, cache: BlockCache | None = None, check_runs: bool = True
) -> Selection:
    """Opens the runs that `PATH[?field=pattern&field=FILE]` stands for.

    Args:
      text: the path may be a URL.
      cache, check_runs: see `Store`.

    Raises:
      InputError: no store, a damaged store, an unknown field, or a filter that keeps no run.
    """
    path, _, query = (text, "", "") if is_store(text) else text.partition("?")
    store = Store(path, cache, check_runs=check_runs)
    return Selection(store, select_runs(store, query))


def is_store(path: str | os.PathLike) -> bool:
    """Whether a path as it stands is that of a local store, whatever its name looks like."""
    return os.path.isfile(os.path.join(path, "store.json"))


def select_runs(store: Store, query: str) -> np.ndarray:
    """(R,) int: the runs of a store that match every condition, ascending places in `store.runs`.

    Conditions `field=pattern` are joined by `&`. A pattern with `*`, `?` or `[...]` is matched to
    the whole value; where it is the path of a file, the value must be one of the words in that
    file, and words that no run has are counted. A subject matches however it is written (see
    `identity`). `draw:N:D` keeps N values of those that conditions before it have left: the first
    ones of random order number D, so that sets of one draw are nested. "" keeps every run.
    """
    keep = np.ones(len(store.runs), bool)
    for condition in filter(None, query.split("&")):
        field, equals, pattern = condition.partition("=")
        if not equals:
            raise InputError(f"'{condition}' is no filter: write ?{condition}=PATTERN.")
        if not any(field in run for run in store.runs):
            names = field_names(store.runs)
            raise unknown(f"No run of {store.path} has a field '{field}'", names)
        values = np.array([str(run.get(field, "")) for run in store.runs])
        if match := _DRAW.fullmatch(pattern):
            # Ordered by checksums, a value keeps its place whatever other values the store has.
            checksums = {x: hashlib.sha256(f"{match[2]}/{x}".encode()).digest() for x in values}
            order = sorted(set(values[keep]), key=checksums.__getitem__)
            if not 0 < int(match[1]) <= len(order):
                raise InputError(
                    f"'{condition}' asks for {match[1]} of the {len(order)} values of '{field}' in "
                    f"{store.path}: choose from 1 to that many."
                )
            keep &= np.isin(values, order[: int(match[1])])
        else:
            keep &= _matches(store, field, values.tolist(), pattern)
    if not keep.any():
        raise InputError(f"No run of {store.path} matches '?{query}': loosen the filter.")
    return np.flatnonzero(keep)


def _matches(store: Store, field: str, values: list[str], pattern: str) -> list[bool]:
    """Which values of a field of the runs of a store meet a condition."""
    if os.path.isfile(pattern):
        words = read_words(pattern)
    elif field == "subject" and not re.search(r"[*?[]", pattern):
        words = [pattern]
    else:
        return [fnmatch.fnmatchcase(value, pattern) for value in values]
    names = {x: x for x in (*values, *words)} if field != "subject" else persons(values, words)
    there = {names[value] for value in values}
    lost = [word for word in words if names[word] not in there]
    if 0 < len(lost) < len(words):
        such = "" if field in store.restricted else f", such as {some_of(lost)}"
        print(
            f"{pattern}: {len(lost)} of {len(words)} words are no {field} of a run of {store.path}"
            f"{such}.",
            file=sys.stderr,
        )
    wanted = {names[word] for word in words}
    return [names[value] in wanted for value in values]


def read_words(path: str | os.PathLike) -> list[str]:
    """The words in a file, each once."""
    try:
        return list(dict.fromkeys(check_file(path).read_text("utf-8-sig").split()))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no list of words ({error}): save it as UTF-8.") from error


def is_known(value: Any) -> bool:
    """Whether a field of a run or an event says something."""
    return value not in (None, "")


def field_names(records: Iterable[dict[str, Any]]) -> list[str]:
    """The fields in which runs or events say something, sorted, but for those that are lists."""
    names = {name for record in records for name, value in record.items() if is_known(value)}
    return sorted(names - _LISTS)


def split_name(text: str) -> tuple[str | None, str]:
    """("train", "hcp?task=REST1") of "train=hcp?task=REST1"; None where there is no name."""
    match = None if is_store(text) else re.fullmatch(r"([\w.-]+)=(.*)", text)
    return (match[1], match[2]) if match else (None, text)


class Chooser:
    """Tells which names are meant.

    Args:
      text: names or patterns with `*`, `?` and `[...]`, separated by commas; or the path of a file
        with one name a word; None means all names.
    """

    def __init__(self, text: str | None):
        path = Path(text or "")
        unfetched = path.is_symlink() and not path.exists()
        self._file = path if path.is_file() or unfetched else None
        words = ["*"] if text is None else [part.strip() for part in text.split(",")]
        self._words = frozenset(words if self._file is None else read_words(path))
        self._lost = set() if self._file is None else set(self._words)

    def __call__(self, name: str) -> bool:
        self._lost.discard(name)
        if self._file is not None:
            return name in self._words
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._words)

    def remarks(self) -> list[str]:
        """A sentence on the words of a file that were none of the names so far."""
        if not self._lost:
            return []
        return [
            f"Words of {self._file} that are not there: {len(self._lost)} of {len(self._words)}, "
            f"such as {some_of(self._lost)}."
        ]


Subject = tuple[str, str]  # dataset and label


def group_subjects(runs: Iterable[dict[str, Any]], field: str | None = None) -> list[list[Subject]]:
    """Subjects that must stay together.

    Two subjects of a dataset do if they are one person (see `identity`), if some of their runs have
    the same value of the field, or if others link them so. A subject without a value is a group of
    its own.

    Args:
      runs: lines of run tables, in any order.
      field: of the run table, or None to keep every subject apart.

    Returns:
      Groups of (dataset, subject), sorted within and among themselves.

    Raises:
      InputError: a run has no subject, a label means somebody in two datasets or cannot stand in
        a list, or no run has the field.
    """
    runs = list(runs)
    subjects = sorted({_subject(run) for run in runs})
    _check_labels(subjects)
    pairs = {(subject, "person", name) for subject, name in name_people(runs).items()}
    if field is not None:
        told = {(_subject(run), field, str(run[field])) for run in runs if is_known(run.get(field))}
        if not told:
            raise unknown(f"No run has a '{field}' to group subjects by", field_names(runs))
        pairs |= told
    from scipy.cluster.hierarchy import DisjointSet  # slow to import, and most lists need no groups

    groups, first = DisjointSet(subjects), {}
    for subject, kind, value in pairs:
        groups.merge(subject, first.setdefault((subject[0], kind, value), subject))
    return sorted(map(sorted, groups.subsets()))


def _subject(run: dict[str, Any]) -> Subject:
    if not run.get("subject"):  # as `name_people` has it
        raise InputError(
            f"Run {run['key']} has no subject, so nobody knows where it belongs: give "
            "'STORE?subject=?*' to leave such runs out."
        )
    return str(run.get("dataset") or ""), str(run["subject"])


def _check_labels(subjects: list[Subject]) -> None:
    # None of these messages shows a label: reports of restricted data must not.
    owners, names = collections.defaultdict(set), persons({label for _, label in subjects})
    for dataset, label in subjects:
        owners[names[label]].add(dataset)
    if unfit := sum(len(label.split()) != 1 for label in names):
        raise InputError(
            f"Some subject labels ({unfit}) hold spaces, which lists of subjects cannot: convert "
            "the runs with other labels."
        )
    if twice := [sorted(some) for some in owners.values() if len(some) > 1]:
        a, b = twice[0][:2]
        raise InputError(
            f"Some subject labels ({len(twice)}) stand for different people, in the datasets "
            f"'{a}' and '{b}' for one, and lists hold only labels: split these datasets apart."
        )
