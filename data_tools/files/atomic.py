"""Files that appear whole or not at all: write beside, fsync, rename."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def publish_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yields a file that appears at `path`, whole and durable, when the block ends well.

    If the block fails or the disk is full, an older file at `path` stays and nothing is left
    beside it. Only a kill can leave something: a file whose name begins with a dot.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        # A failed write does not say where; the user knows the file by its final name.
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            error.filename = str(path)
        raise
    fsync_directory(path.parent)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Publishes a file of these bytes."""
    with publish_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def publish_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a new directory beside `path` that takes its place when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    new.mkdir()
    old = path.with_name(f"{new.name}.old")
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


def fsync_directory(path: str | os.PathLike) -> None:
    """Makes renames inside a directory durable; also the bytes of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
