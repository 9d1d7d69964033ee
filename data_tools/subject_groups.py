"""Which subjects of run tables must stay together when they are split, such as families."""

import collections
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.selection import field_names, is_known

Subject = tuple[str, str]  # dataset and label


def group_subjects(runs: Iterable[dict[str, Any]], field: str | None = None) -> list[list[Subject]]:
    """Subjects that must stay together.

    Two subjects of a dataset do if some of their runs have the same value of the field, or if
    others link them so. A subject without a value is a group of its own.

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
    if field is None:
        return [[subject] for subject in subjects]
    pairs = {(_subject(run), str(run[field])) for run in runs if is_known(run.get(field))}
    if not pairs:
        raise InputError(
            f"No run has a '{field}' to group subjects by: choose one of "
            f"{', '.join(field_names(runs))}."
        )
    return _connected(subjects, [(subject, (subject[0], value)) for subject, value in pairs])


def _connected(subjects: list[Subject], links: list[tuple[Subject, Any]]) -> list[list[Subject]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Nodes are the subjects, then what links them.
    nodes = {node: i for i, node in enumerate(subjects)}
    ties = {tie: len(nodes) + i for i, tie in enumerate(dict.fromkeys(tie for _, tie in links))}
    ends = [nodes[subject] for subject, _ in links], [ties[tie] for _, tie in links]
    size = len(nodes) + len(ties)
    graph = coo_array((np.ones(len(links), bool), ends), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    groups = collections.defaultdict(list)
    for subject, label in zip(subjects, component, strict=False):
        groups[label].append(subject)
    return sorted(groups.values())


def _subject(run: dict[str, Any]) -> Subject:
    if not is_known(run.get("subject")):
        raise InputError(
            f"Run {run['key']} has no subject, so nobody knows where it belongs: give "
            "'STORE?subject=?*' to leave such runs out."
        )
    return str(run.get("dataset") or ""), str(run["subject"])


def _check_labels(subjects: list[Subject]) -> None:
    # None of these messages shows a label: reports of restricted data must not.
    owners = collections.defaultdict(list)
    for dataset, label in subjects:
        owners[label].append(dataset)
    if unfit := sum(len(label.split()) != 1 for label in owners):
        raise InputError(
            f"Some subject labels ({unfit}) hold spaces, which lists of subjects cannot: convert "
            "the runs with other labels."
        )
    if twice := [datasets for datasets in owners.values() if len(datasets) > 1]:
        a, b = twice[0][:2]
        raise InputError(
            f"Some subject labels ({len(twice)}) stand for different people, in the datasets "
            f"'{a}' and '{b}' for one, and lists hold only labels: split these datasets apart."
        )
