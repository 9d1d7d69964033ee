"""Clears away what killed processes were writing with `atomic`."""

import contextlib
import fcntl
import os
import re
import shutil
import time
from pathlib import Path

# `.NAME.1a2b3c4d`, `.NAME.1a2b3c4d.old`, `.NAME.new` and so on.
_TEMPORARY = re.compile(r"\.(?P<name>.+?)(?P<token>\.[0-9a-f]{8})?(?P<ending>\.new|\.old)?")
_AGE = 86400.0  # seconds after which no process is thought to write a file any more


def remove_leftovers(directory: str | os.PathLike) -> None:
    """Removes temporary files of killed processes from a directory and the directories in it.

    For whoever holds the lock of the directory. Nothing of a living process is removed: a file
    whose lock is free has no writer, and what is not locked is left alone for a day.
    """
    directory = Path(directory)
    with contextlib.suppress(OSError):  # who may only read cannot clear, and need not
        inside = [path for path in directory.iterdir() if _is_plain_directory(path)]
        for folder in (directory, *inside):
            for path in list(folder.iterdir()):
                _remove_if_left(path)


def _is_plain_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _remove_if_left(path: Path) -> None:
    found = _TEMPORARY.fullmatch(path.name)
    if not found or not (found["token"] or found["ending"]):
        return
    with contextlib.suppress(OSError):
        if time.time() - _newest(path) < _AGE and not (
            found["ending"] == ".new" and path.is_file() and _has_no_writer(path)
        ):
            return
        target = path.with_name(found["name"])
        if found["ending"] == ".old" and not target.exists():
            path.rename(target)  # the kill came between the two renames of a directory
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _newest(path: Path) -> float:
    """The time of the last change in a file or directory, in Unix seconds."""
    return max(x.lstat().st_mtime for x in (path, *path.rglob("*")))


def _has_no_writer(path: Path) -> bool:
    """True if no process holds the lock of a file; False if the file system has no locks."""
    with open(path, "rb") as file, contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
