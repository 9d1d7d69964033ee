"""Pseudonyms: run tables and logs that do not name the people in them.

A subject is replaced by a keyed hash (HMAC-SHA256) of its label, so that whoever holds the salt can
find a person again and join further tables, and nobody else can, not even by trying all labels. The
same salt gives the same pseudonym in every store.
"""

import collections
import dataclasses
import functools
import hashlib
import hmac
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.raw_run import RunFiles
from data_tools.errors import InputError, check_file
from data_tools.readers.surface_run import hemisphere, other_side, without_hemisphere
from data_tools.store.identity import bare_label
from data_tools.store.selection import is_known

_SHORTEST_SALT = 16  # bytes; a shorter one could be guessed
_DIGITS = 12
_TELLING = 4  # characters of a label that says nothing but who it is
# Columns that hold nothing but labels of people.
_ID_COLUMN = re.compile(
    r"id|(participant|person|patient|subject|subj|sub)([-_. ]?(id|code|label|name|number|nr))?",
    re.IGNORECASE,
)
_NO_ID_COLUMNS = frozenset({"onset", "duration", "session", "task", "run", "trial_type"}) | {
    *("acq", "ce", "rec", "dir", "echo", "mod", "mag")
}
_SUBJECT = re.compile(
    rf"(?<![^\W_])(sub(?:j(?:ect)?)?)([-_ ]?)(?!p[0-9a-f]{{{_DIGITS}}}(?![^\W_]))([^\W_]+)",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:[-.]\w+)*|[^\W_]+")


@dataclasses.dataclass(frozen=True)
class Pseudonyms:
    """Replaces subjects in what is known of runs.

    Attributes:
      salt: secret bytes.
    """

    salt: bytes = dataclasses.field(repr=False)

    def subject(self, label: str) -> str:
        """The pseudonym of a subject, such as "p3f09a6c1b2de"."""
        return "p" + hmac.new(self.salt, label.encode(), hashlib.sha256).hexdigest()[:_DIGITS]

    def runs(self, runs: Sequence[RunFiles]) -> list[RunFiles]:
        """The runs under keys and subjects that are pseudonyms, with a `scrub` for messages.

        This is the one door to pseudonyms: the code behind it never sees the labels, only paths to
        files. Of a key only the subject is replaced ("sub-01_task-rest" keeps its task); one that
        does not hold the subject is replaced as a whole. In fields and events, whatever column they
        stand in, labels are replaced too: after "sub-" all of them; alone those of these runs and
        of their table of participants, where they are long enough to mean nothing else or fill a
        column. Fields that only name the subject are left out.
        """
        labels = {str(run.fields.get("subject", "")) for run in runs}
        labels = labels.union(*{run.people for run in runs}) - {""}
        people = {_key(label): label for label in sorted(labels)}
        columns = collections.defaultdict(list)
        for run in runs:
            for name, value in run.fields.items():
                if is_known(value):
                    columns[name].append((value, _key(run.fields.get("subject"))))
        ids = set()
        for name, pairs in columns.items():
            values, owners = zip(*pairs, strict=True)
            # However short labels are: of all columns these are ids of their runs, or of others.
            is_own = len({*owners}) > 1 and all(_key(value) == who for value, who in pairs)
            is_text = all(isinstance(value, str) and value in labels for value in values)
            short = name not in _NO_ID_COLUMNS and (is_own or is_text)
            if short or self._holds_ids(name, values, people):
                ids.add(name)
        return [self._run(run, people, ids) for run in runs]

    def run(self, run: RunFiles) -> RunFiles:
        """A single run, see `runs`."""
        return self.runs([run])[0]

    def _run(self, run: RunFiles, people: dict[str, str], ids: Collection[str]) -> RunFiles:
        own = str(run.fields.get("subject", ""))
        # Runs without tables of their own need not take the names of everybody along.
        if run.read_events is None and not run.people:
            people = {_key(own): own}
        fields = {}
        for name, value in run.fields.items():
            names_own = _key(value) == _key(own) and (
                name in ids or len(_key(own)) >= _TELLING or str(value).startswith("sub-")
            )
            if not names_own:
                fields[self._text(name, people)] = self._cell(value, people, name in ids)
        if own:
            fields |= {"subject": self.subject(own)}
        read = run.read_events and functools.partial(self._events, run.read_events, people)
        return dataclasses.replace(
            run,
            key=self._run_key(run, people),
            fields=fields,
            people=frozenset(),
            read_events=read,
            scrub=functools.partial(self._scrub, run=run, people=people),
        )

    def _run_key(self, run: RunFiles, people: dict[str, str]) -> str:
        label = str(run.fields.get("subject", ""))
        # The first is the subject; a session or a run may well have the same number.
        for pattern in (f"(?<=sub-){re.escape(label)}(?![A-Za-z0-9])", _whole(label)):
            key, found = re.subn(pattern, self.subject(label), run.key, count=1)
            if label and found:
                return self._text(key, people)
        return self.subject(run.key)

    def _events(
        self, read: Callable[[], list[dict[str, Any]]], people: dict[str, str]
    ) -> list[dict[str, Any]]:
        """The events of a run without labels of people."""
        events = read()
        names = dict.fromkeys(name for event in events for name in event)
        ids = {n for n in names if self._holds_ids(n, [e.get(n) for e in events], people)}
        return [
            {self._text(n, people): self._cell(x, people, n in ids) for n, x in event.items()}
            for event in events
        ]

    def _holds_ids(self, name: str, values: Sequence[Any], people: Collection[str]) -> bool:
        """Returns True if a column holds subject labels, judged by its name or its values."""
        keys = {_key(x) for x in values if is_known(x)}
        known = bool(keys) and all(len(key) >= _TELLING and key in people for key in keys)
        return name not in _NO_ID_COLUMNS and (known or _ID_COLUMN.fullmatch(name) is not None)

    def _cell(self, value: Any, people: dict[str, str], is_id: bool) -> Any:
        """A value without labels of people; numbers are labels in columns of ids only."""
        if is_id and is_known(value):
            return self.subject(people.get(_key(value), str(value)))
        return self._text(value, people) if isinstance(value, str) else value

    def _text(self, text: str, people: dict[str, str]) -> str:
        """A text with pseudonyms in place of labels of people."""

        def named(match: re.Match[str]) -> str:
            label = people.get(_key(match[3]))
            if label is None and match[2] != "-":
                return match[0]
            return match[1] + match[2] + self.subject(label or match[3])

        def word(match: re.Match[str]) -> str:
            key = _key(match[0])
            if len(key) >= _TELLING and key in people:
                return self.subject(people[key])
            parts = re.split(r"([\W_]+)", match[0])
            keys = [_key(part) for part in parts]
            return "".join(
                self.subject(people[k]) if len(k) >= _TELLING and k in people else part
                for part, k in zip(parts, keys, strict=True)
            )

        return _WORD.sub(word, _SUBJECT.sub(named, text))

    def scrub(self, text: str, run: RunFiles) -> str:
        """A message about a run, as it was found, without names of its files and of people."""
        return self.run(run).shown(text)

    def _scrub(self, text: str, run: RunFiles, people: dict[str, str]) -> str:
        key = self._run_key(run, people)
        # Events, sidecars and confounds lie beside the run or in other folders of its subject.
        paths = [run.path, run.confounds, run.outliers, *getattr(run.read_events, "args", ())]
        paths += run.sidecar_tr if isinstance(run.sidecar_tr, tuple) else ()
        known: set[str] = set()
        for path in (Path(path) for path in paths if isinstance(path, str | os.PathLike)):
            sided = hemisphere(path.name) is not None
            for name in {path.name, other_side(path.name) if sided else path.name}:
                stem = without_hemisphere(name).split(".")[0] or name
                known |= {str(path.with_name(name)), name, stem}
            known.add(str(path.parent))
        for words in sorted(known, key=len, reverse=True):
            text = text.replace(words, key)
        if label := str(run.fields.get("subject", "")):
            text = re.sub(_whole(label), self.subject(label), text)
        return self._text(text, people)


def read_salt(path: str | os.PathLike) -> Pseudonyms:
    """Pseudonyms with the bytes of a file as the salt."""
    path = Path(path)
    if not os.path.lexists(path):
        raise InputError(
            f"There is no salt at {path}: make one with `head -c 32 /dev/urandom > {path}` and "
            "keep it secret."
        )
    salt = check_file(path).read_bytes()
    if len(salt) < _SHORTEST_SALT:
        raise InputError(
            f"The salt {path} has {len(salt)} bytes and could be guessed: give {_SHORTEST_SALT} "
            "random bytes or more."
        )
    return Pseudonyms(salt)


def _key(value: Any) -> str:
    """Returns one key for all spellings of a subject label, ignoring case."""
    return bare_label(str("" if value is None else value)).casefold()


def _whole(label: str) -> str:
    """A pattern for the label where it is not a part of a longer word."""
    return rf"(?<![A-Za-z0-9]){re.escape(label)}(?![A-Za-z0-9])"
