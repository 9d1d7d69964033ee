"""The twenty batches of HCP subjects, in which families stay together.

The published models were trained on batches 0 to 17, or fewer; 18 and 19 were held out. Which
subject is in which batch follows from the families, which only the restricted table of the release
tells, and from the set of subjects: with others in the tree, the batches are others too.
"""

import argparse
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files.json_files import read_json
from data_tools.readers.tables import read_rows

N_BATCHES = 20
# Subjects in the release when the published batches were drawn.
PUBLISHED_SUBJECTS = 1098
# Older tables have only Family_ID, a pair of parents: half-siblings differ in it.
_FAMILY_COLUMNS = ("Pedigree_ID", "Family_ID")
_SEED = 2912
_IS_COUNT = re.compile(r"[0-9]+").fullmatch


def read_families(path: str | os.PathLike) -> tuple[dict[str, int], str]:
    """Reads the families from the restricted table of the release (CSV).

    Messages never show what is in the table. Returns the family of each subject, relabelled to 0,
    1, ... in the order of the identifiers, and the column that tells it: Pedigree_ID, or Family_ID
    where there is none. Subjects without a family are left out.
    """
    rows = read_rows(path, "Subject", _FAMILY_COLUMNS)
    columns = rows[0][1] if rows else _FAMILY_COLUMNS
    family = next(name for name in _FAMILY_COLUMNS if name in columns)
    told = _unique(((n, row["Subject"], row[family]) for n, row in rows), path, "families")
    # As numbers where they all are: 99 comes before 100 then.
    key = int if all(map(_IS_COUNT, told.values())) else str
    labels = {name: i for i, name in enumerate(sorted(set(told.values()), key=key))}
    return {subject: labels[name] for subject, name in told.items()}, family


def family_batches(subjects: Collection[str], families: Mapping[str, int]) -> dict[str, int]:
    """Deals the families of subjects out to twenty batches, as the published ones were.

    `subjects` are all of the release, whichever of them shall be converted; those without a family
    get no batch.
    """
    from sklearn.model_selection import GroupKFold

    known = np.array(sorted(subject for subject in subjects if subject in families))
    groups = [families[subject] for subject in known]
    if len(set(groups)) < N_BATCHES:
        raise InputError(
            f"The number of families that have a folder here is {len(set(groups))}, too few for "
            f"{N_BATCHES} batches: give the batches with --batches-table."
        )
    splitter = GroupKFold(N_BATCHES, shuffle=True, random_state=np.random.RandomState(_SEED))
    return {
        str(subject): batch
        for batch, (_, fold) in enumerate(splitter.split(known, groups=groups))
        for subject in known[fold]
    }


def read_batches(path: str | os.PathLike) -> dict[str, int]:
    """Reads a table of batches: the batch of each subject.

    It is a CSV or TSV with the columns subject and batch, or JSON: a list of such records, or the
    published form {"batch-00": [subject, ...], ...}.
    """
    if Path(path).suffix.lower() == ".json":
        rows = _read_json(path)
    else:
        rows = read_rows(path, "subject", "batch")
    told = _unique(((n, row["subject"], row["batch"]) for n, row in rows), path, "batches")
    for batch in told.values():
        if not _IS_COUNT(batch):
            raise InputError(f"{path} has a batch '{batch}': number them 0, 1, ...")
    return {subject: int(batch) for subject, batch in told.items()}


def parse_numbers(text: str) -> frozenset[int]:
    """{0, 1, 2, 5} of "0-2,5": the type of a flag."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if not match or int(match[2] or match[1]) < int(match[1]):
            fault = f"'{part}' is no number and no range: write 0-17 or 0,3,5"
            raise argparse.ArgumentTypeError(fault)
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(numbers)


def _unique(told: Iterable[tuple[int, str, str]], path: str | os.PathLike, what: str) -> dict:
    """What each subject has, where it is told."""
    first: dict[str, tuple[int, str]] = {}
    for number, subject, value in told:
        subject, value = subject.strip(), value.strip()
        if not subject or not value:
            continue
        line, earlier = first.setdefault(subject, (number, value))
        if earlier != value:
            raise InputError(
                f"Lines {line} and {number} of {path} have two {what} for one subject: leave one."
            )
    return {subject: value for subject, (_, value) in first.items()}


def _read_json(path: str | os.PathLike) -> list[tuple[int, dict[str, str]]]:
    """The records of a table of batches in JSON, and their numbers in the list."""
    value = read_json(path, "write a table of subject and batch as JSON", dict | list)
    try:
        if isinstance(value, dict):
            value = [
                {"subject": subject, "batch": re.search(r"[0-9]+$", name)[0]}
                for name, subjects in value.items()
                for subject in subjects
            ]
        return [(n, {x: str(row[x]) for x in ("subject", "batch")}) for n, row in enumerate(value)]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no table of subject and batch: write it as JSON.") from error
