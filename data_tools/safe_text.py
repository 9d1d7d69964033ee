"""Text that is safe to show and to keep: without passwords, and without control characters.

Names, labels and messages of others reach terminals, logs and files of ours. Control characters in
them could rewrite what a terminal shows, and URLs may hold passwords.
"""

import re
from typing import Any, TextIO

_SECRETS = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|pwd|signature|credential|api[_-]?key)[\w.-]*"
    r"|sig|auth|authorization|AWSAccessKeyId|GoogleAccessId"
)
# User and password before a host. A share may follow the name of a bucket, as in gs://bucket@0.5.
_USER = re.compile(r"(?P<scheme>(?:https?|s?ftp|webdavs?)://)[^/\s'\"@]*@", re.IGNORECASE)
_USER_ELSEWHERE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s'\":@]*:[^/\s'\"@]*@", re.I)
_PARAMETER = re.compile(rf"(?P<name>[?&;](?:{_SECRETS})=)[^&;#\s'\",]+", re.IGNORECASE)
_BEARER = re.compile(r"(?P<name>\bBearer )[\w.~+/=-]+")
_HIDDEN = "***"

# Terminals obey C0 controls (except line ends and tabs), DEL and C1 controls. The others break
# lines or change the direction of text.
_UNSAFE = (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F))
_UNSAFE += (*range(0x2066, 0x206A), 0x200E, 0x200F, 0xFEFF)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _UNSAFE if chr(code) not in "\n\t"}
# Progress bars go back to the start of a line, and up a line; the status of a sweep clears all.
_MOVES = re.compile(r"(?:\x1b\[[AHJ]|[\r\n])*")


def without_secrets(text: str) -> str:
    """The text with passwords, tokens and signatures taken out of its URLs."""
    if "://" not in text and "=" not in text and "Bearer" not in text:
        return text
    text = _USER.sub(r"\g<scheme>", text)
    text = _USER_ELSEWHERE.sub(r"\g<scheme>", text)
    text = _PARAMETER.sub(rf"\g<name>{_HIDDEN}", text)
    return _BEARER.sub(rf"\g<name>{_HIDDEN}", text)


def without_secrets_in(value: Any) -> Any:
    """`without_secrets` of every text in lists and dictionaries, in their keys too."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {without_secrets_in(key): without_secrets_in(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_secrets_in, value))
    return value


def visible(text: str) -> str:
    """The text with control characters written out, such as \\x1b; lines and tabs stay."""
    return text.translate(_ESCAPES)


class Terminal:
    """A text stream that shows what is written as `visible` and `without_secrets` give it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text; one that only moves the cursor, as progress bars do, is left as it is."""
        if not _MOVES.fullmatch(text):
            start = "\r" if text.startswith("\r") else ""
            text = start + visible(without_secrets(text[len(start) :]))
        return self._stream.write(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)
