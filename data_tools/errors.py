"""Errors that a user can mend, and their commonest sentences."""

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_tools.safe_text import Terminal, without_secrets

# Separators of paths and lines, other control characters, and bytes that are not UTF-8.
_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_NAME = 200  # bytes, which leaves room for endings
# Windows has devices by these names, whatever ending follows.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])([.].*)?", re.IGNORECASE)
# What stands in place of a file whose content git-annex or Git LFS has not fetched yet.
_ANNEX = re.compile(rb"([.]{1,2}[/\\])*([.]git)?[/\\]?annex[/\\]objects[/\\]")
_LFS = b"version https://git-lfs.github.com/spec/"


class InputError(Exception):
    """Bad input: the message is one sentence that names the thing and the fix, and no password."""

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


def unknown(what: str, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among the choices, as a sentence that lists them.

    Args:
      what: the begin of the sentence, such as "No run has a field 'age'".
      choices: the names that there are.
    """
    return InputError(f"{what}: choose one of {', '.join(choices)}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises InputError for a value of an option that is not among the choices; lists them."""
    choices = tuple(choices)
    if value not in choices:
        raise unknown(f"{name}={value!r} is unknown", choices)


def check_least(name: str, value: float, least: float) -> None:
    """Refuses a setting that is smaller than the least value it may have."""
    if not value >= least:
        raise InputError(f"{name} must be {least} or more.")


def check_file(path: str | os.PathLike) -> Path:
    """The path of a file, if there is such a file with its content; InputError otherwise."""
    path = Path(path)
    if not path.is_file():
        raise InputError(describe_absence(path))
    with as_input_errors(), open(path, "rb") as file:
        head = file.read(len(_LFS) + 10)
    for found, tool, command in (
        (_ANNEX.match(head), "git-annex", "datalad get"),
        (head.startswith(_LFS), "Git LFS", "git lfs pull --include"),
    ):
        if found:
            raise InputError(
                f"{path} is a pointer of {tool}, whose content was not fetched: {command} {path}."
            )
    return path


def check_name(path: str | os.PathLike) -> None:
    """Refuses a path that is not UTF-8, which stores and lists could not hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"The name {os.fsencode(path)!r} is not UTF-8: rename it.") from None


def describe_absence(path: str | os.PathLike) -> str:
    """One sentence on a file that is not there, with the fix."""
    path = Path(path)
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            whose = "it" if link == path else link
            return (
                f"{path} does not exist, since {whose} is a link to nothing: fetch its content "
                "(datalad get, git annex get), or mend the link."
            )
    if path.is_dir():
        return f"{path} is a directory: give a file."
    return f"{path} does not exist: check the path."


def check_file_name(name: str, what: str) -> None:
    """Refuses a name from data, called `what`, that would lead elsewhere in the name of a file."""
    if (
        name in ("", ".", "..")
        or _NOT_IN_NAMES.search(name)
        or len(name.encode()) > _LONGEST_NAME
        or _DEVICES.fullmatch(name)
    ):
        raise InputError(
            f"{what} {name!r} cannot name a file: rename it, without '/', '\\' and control "
            f"characters, in at most {_LONGEST_NAME} bytes of UTF-8."
        )


@contextlib.contextmanager
def kind_errors(code: int = 1) -> Iterator[None]:
    """Wraps a main: an InputError or a file-system error becomes one line and this exit code.

    Ctrl-C ends with 130, as shells do. Anything else is a bug in our code and keeps its traceback.
    What is printed meanwhile comes out without passwords and control characters.
    """
    with _safe_streams():
        try:
            yield
        except InputError as error:
            message = str(error)
        except BrokenPipeError:
            # The reader, such as `head`, has seen enough. Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(128 + signal.SIGPIPE) from None
        except OSError as error:
            message = describe_os_error(error)
        except UnicodeEncodeError as error:
            text = error.object[max(0, error.start - 20) : error.end + 20]
            message = f"{text!r} cannot be written as {error.encoding}: rename what is called so."
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr, flush=True)
            raise SystemExit(130) from None
        else:
            return
        print(f"error: {message}", file=sys.stderr, flush=True)
        raise SystemExit(code)


@contextlib.contextmanager
def _safe_streams() -> Iterator[None]:
    """Puts a `Terminal` in place of stdout and stderr."""
    whole = sys.stdout, sys.stderr
    for stream in whole:
        with contextlib.suppress(AttributeError):  # a stream of somebody else's
            # Names of files need not be text, and printing one must not end the work.
            stream.reconfigure(errors="backslashreplace")
    # Each main has this around it, and one main may call another.
    ours = [x if isinstance(x, Terminal) else Terminal(x) for x in whole]
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        # Somebody else may have put another stream there in between.
        sys.stdout = whole[0] if sys.stdout is ours[0] else sys.stdout
        sys.stderr = whole[1] if sys.stderr is ours[1] else sys.stderr


@contextlib.contextmanager
def as_input_errors() -> Iterator[None]:
    """Turns errors of the file system into InputError, for code that only reads input."""
    try:
        yield
    except OSError as error:
        raise InputError(describe_os_error(error)) from error


def describe_os_error(error: OSError) -> str:
    """One sentence on an error of the file system, with the fix."""
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk that holds {where} is full: free some space and run the command again."
    if error.errno == errno.EFBIG:
        return f"{where} would outgrow the largest file allowed here: raise the limit (ulimit -f)."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission to use {where}: choose another path or change its permissions."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{where} cannot be made, a file is in the way: choose another path."
    if error.errno == errno.ENOENT:
        return describe_absence(where)
    return f"{where}: {error.strerror or error}."
