"""Pseudonyms: run tables and logs that do not name the people in them.

A subject is replaced by a keyed hash (HMAC-SHA256) of its label, so that whoever holds the salt can
find a person again and join further tables, and nobody else can, not even by trying all labels. The
same salt gives the same pseudonym in every store.
"""

import dataclasses
import functools
import hashlib
import hmac
import os
import re
from pathlib import Path

from data_tools.convert.raw_run import RunFiles
from data_tools.errors import InputError
from data_tools.readers.surface_run import hemisphere, other_side, without_hemisphere

_SHORTEST_SALT = 16  # bytes; a shorter one could be guessed
_DIGITS = 12
_TELLING = 4  # characters of a label that says nothing but who it is


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

    def run(self, run: RunFiles) -> RunFiles:
        """The run under a key and a subject that are pseudonyms, with a `scrub` for messages.

        This is the one door to pseudonyms: the code behind it never sees the label, only paths to
        files. Of a key only the subject is replaced ("sub-01_task-rest" keeps its task); one that
        does not hold the subject is replaced as a whole.
        """
        label = str(run.fields.get("subject", ""))
        key, fields = self.subject(run.key), run.fields
        if label:
            # A field may name the subject too; a short label, such as 01, may mean anything.
            telling = {f"sub-{label}", *([label] if len(label) >= _TELLING else [])}
            fields = {name: x for name, x in run.fields.items() if str(x) not in telling}
            fields |= {"subject": self.subject(label)}
            # The first is the subject; a session or a run may well have the same number.
            for pattern in (f"(?<=sub-){re.escape(label)}(?![A-Za-z0-9])", _whole(label)):
                replaced, found = re.subn(pattern, self.subject(label), run.key, count=1)
                if found:
                    key = replaced
                    break
        scrub = functools.partial(self.scrub, run=run)
        return dataclasses.replace(run, key=key, fields=fields, scrub=scrub)

    def scrub(self, text: str, run: RunFiles) -> str:
        """A message about a run, as it was found, without names of its files and subject."""
        key = self.run(run).key
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
        return text


def read_salt(path: str | os.PathLike) -> Pseudonyms:
    """Pseudonyms with the bytes of a file as the salt."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"There is no salt at {path}: make one with `head -c 32 /dev/urandom > {path}` and "
            "keep it secret."
        )
    salt = path.read_bytes()
    if len(salt) < _SHORTEST_SALT:
        raise InputError(
            f"The salt {path} has {len(salt)} bytes and could be guessed: give {_SHORTEST_SALT} "
            "random bytes or more."
        )
    return Pseudonyms(salt)


def _whole(label: str) -> str:
    """A pattern for the label where it is not a part of a longer word."""
    return rf"(?<![A-Za-z0-9]){re.escape(label)}(?![A-Za-z0-9])"
