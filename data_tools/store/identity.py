"""Who is who: which labels of subjects mean one person, however they are written.

Spreadsheets lose leading zeros and "sub-" or gain ".0", and BIDS takes punctuation out of labels:
"sub-01", "1", "01 " and "1.0" are one person, and so are "NDAR_INV7" and "NDARINV7".
"""

import collections
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_PREFIX = re.compile(r"(sub[-_\s]*)+(?=\d)|sub[-_\s]+", re.IGNORECASE)
_EXAMPLES = 3


def persons(*sets: Iterable[str]) -> dict[str, str]:
    """A name for each label, which is the same for all labels of one person.

    Args:
      sets: the labels of stores or tables. Where one of them has two labels that differ by a
        separator between digits, such as "1-11" and "11-1", they are two people; where none has,
        "1-11" and "111" are one.
    """
    sets = [sorted(map(str, labels)) for labels in sets]
    groups: dict[str, str] = {}  # by the form that keeps separators between digits
    crowded = set()
    for labels in sets:
        forms = collections.defaultdict(set)
        for label in labels:
            form = bare_label(label)
            forms[groups.setdefault(form, _joined(label))].add(form)
        crowded |= {name for name, some in forms.items() if len(some) > 1}
    names = {label: (bare_label(label), groups[bare_label(label)]) for x in sets for label in x}
    return {label: form if name in crowded else name for label, (form, name) in names.items()}


def name_people(*sets: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """`persons` of the subjects of runs, each dataset for itself: names by dataset and label."""
    labels = collections.defaultdict(lambda: [set() for _ in sets])
    for i, runs in enumerate(sets):
        for run in runs:
            labels[str(run.get("dataset") or "")][i].add(str(run.get("subject") or ""))
    return {
        (dataset, label): name
        for dataset, some in labels.items()
        for label, name in persons(*some).items()
    }


def same_person(a: object, b: object) -> bool:
    """Whether two labels mean one person; those that differ in case do not."""
    names = persons([str(a)], [str(b)])
    return names[str(a)] == names[str(b)]


def twins_but_for_case(ours: Collection[str], theirs: Collection[str]) -> list[str]:
    """Pairs of names of `persons` that differ in case only, such as "anna and Anna"."""
    folded = {name.casefold(): name for name in theirs}
    pairs = [(name, folded.get(name.casefold(), name)) for name in sorted(set(ours) - set(theirs))]
    return [f"{a} and {b}" for a, b in pairs if a != b]


def some_of(labels: Collection[object]) -> str:
    """Three of some labels for a message, and that there are more."""
    shown = sorted(map(str, labels))[:_EXAMPLES]
    return ", ".join(shown) + (", ..." if len(labels) > len(shown) else "")


def _bare(label: str) -> str:
    text = unicodedata.normalize("NFKC", label).strip()
    text = text[match.end() :] if (match := _PREFIX.match(text)) else text
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def bare_label(label: str) -> str:
    """A label without "sub-", punctuation and leading zeros, but with a hyphen between numbers."""
    text = re.sub(r"(?<=\d)[\W_]+(?=\d)", "-", _bare(label))
    return _without_zeros(re.sub(r"[^\w-]|_|(?<!\d)-|-(?!\d)", "", text)) or label


def _joined(label: str) -> str:
    return _without_zeros(re.sub(r"[\W_]", "", _bare(label))) or label


def _without_zeros(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)
