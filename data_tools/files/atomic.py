"""Files that appear whole or not at all: write beside, fsync, rename."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_tools.files.locks import OutputLock


@contextlib.contextmanager
def publish_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yields a file that appears at `path`, whole and durable, when the block ends well.

    If the block fails or the disk is full, an older file at `path` stays and nothing is left
    beside it. Only a kill can leave something: `.NAME.new`, which the next writer of `path` uses.
    """
    path = Path(path)
    file = _open_beside(path)
    try:
        with file:
            # The lock ends when the file is closed, and then another process may take `.NAME.new`.
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        # A failed write does not say where; the user knows the file by its final name.
        if error.filename in (None, file.name):
            error.filename = str(path)
        raise
    fsync_directory(path.parent)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Publishes a file of these bytes."""
    with publish_file(path) as file:
        file.write(data)


def _open_beside(path: Path) -> BinaryIO:
    """An empty file beside `path`: `.NAME.new`, unless another process is writing that one."""

    def keep_bytes(name: str, flags: int) -> int:
        return os.open(name, flags & ~os.O_TRUNC, 0o666)  # they may be of a living process

    beside = str(path.with_name(f".{path.name}.new"))
    try:
        with contextlib.suppress(PermissionError):  # somebody else's job was killed
            file = open(beside, "wb", opener=keep_bytes)
            if _lock_new(file, beside):
                return file
            file.close()
        return open(path.with_name(f".{path.name}.{secrets.token_hex(4)}"), "xb")
    except OSError as error:
        error.filename = str(path)
        raise


def _lock_new(file: BinaryIO, beside: str) -> bool:
    """Empties an open file if no other process has it, or has renamed it just now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.stat(beside), os.fstat(file.fileno())):
            return False
    except OSError:  # it is in use or renamed, or the file system has no locks
        return False
    file.truncate(0)
    return True


@contextlib.contextmanager
def publish_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a new directory beside `path` that takes its place when the block ends well.

    Only a kill can leave something, `.NAME.new` and `.NAME.lock`, which the next call clears away.

    Raises:
      InputError: another process is publishing a directory there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(f".{path.name}.lock")
    lock = OutputLock(lock_path, path)
    # Without locks others may be at work: names differ then, and nothing is cleared away.
    word = "" if lock.is_held else f".{secrets.token_hex(4)}"
    new, old = (path.with_name(f".{path.name}{word}.{end}") for end in ("new", "old"))
    try:
        if old.exists() and not path.exists():  # killed between the two renames
            os.replace(old, path)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            for folder, _, names in os.walk(new):
                for name in ("", *names):
                    fsync_directory(os.path.join(folder, name))
            # A directory cannot be replaced in one step: the old one steps aside first.
            if path.exists():
                os.replace(path, old)
            os.replace(new, path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
        fsync_directory(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        lock_path.unlink(missing_ok=True)
        lock.release()


def fsync_directory(path: str | os.PathLike) -> None:
    """Makes renames inside a directory durable; also the bytes of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
