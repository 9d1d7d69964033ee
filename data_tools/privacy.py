"""Pseudonyms: run tables and logs that do not name the people in them.

A subject is replaced by a keyed hash (HMAC-SHA256) of its label, so that whoever holds the salt can
find a person again and join further tables, and nobody else can, not even by trying all labels. The
same salt gives the same pseudonym in every store.
"""

import dataclasses
import hashlib
import hmac
import os
import re
from pathlib import Path

from data_tools.errors import InputError
from data_tools.run_files import RunFiles

_SHORTEST_SALT = 16  # bytes; a shorter one could be guessed
_DIGITS = 12


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
        """The run under a key and a subject that are pseudonyms.

        Of a key only the subject is replaced ("sub-01_task-rest" keeps its task); one that does not
        hold the subject is replaced as a whole.
        """
        label = str(run.fields.get("subject", ""))
        if not label:
            return dataclasses.replace(run, key=self.subject(run.key))
        fields = {
            name: self.subject(label) if name == "subject" else value
            for name, value in run.fields.items()
            # A second field with the same label would give the subject away.
            if name == "subject" or str(value) not in (label, f"sub-{label}")
        }
        # The first is the subject; a session or a run may well have the same number.
        key, found = _whole(label).subn(self.subject(label), run.key, count=1)
        return dataclasses.replace(run, key=key if found else self.subject(run.key), fields=fields)

    def scrub(self, text: str, run: RunFiles) -> str:
        """A message about a run without the names of its files and of its subject.

        Args:
          text: the message.
          run: as it was found, before `run`.
        """
        key = self.run(run).key
        for path in (run.path, run.confounds, run.sidecar_tr):
            if isinstance(path, Path):
                # The other hemisphere, events and tables lie in the same directories.
                text = re.sub(rf"{re.escape(str(path.parent))}{re.escape(os.sep)}\S+", key, text)
                text = text.replace(path.name, key)
        if label := str(run.fields.get("subject", "")):
            text = _whole(label).sub(self.subject(label), text)
        return text


def read_salt(path: str | os.PathLike) -> Pseudonyms:
    """Pseudonyms with the bytes of a file as the salt.

    Raises:
      InputError: the file is missing, or too short to be a secret.
    """
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


def _whole(label: str) -> re.Pattern[str]:
    """The label where it is not a part of a longer word."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(label)}(?![A-Za-z0-9])")
