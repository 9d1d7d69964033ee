"""One job at a time in a directory, and never in a store.

Two jobs that write to one workdir would delete each other's checkpoints and lines. Locks are those
of the operating system (flock): they end with their process, even with one that is killed.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from data_tools.errors import InputError
from data_tools.files.leftovers import remove_leftovers
from data_tools.files.locks import NO_LOCKS, owner_note
from data_tools.store.checks import refuse_inside_store

LOCK = ".in-use"  # the file that is locked, with a note on who has it


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds a directory, made if it is not there, for this job alone.

    Raises:
      InputError: it is a store, or another job has it, whom the sentence names; on all processes.
    """
    refuse_inside_store(directory)
    with contextlib.ExitStack() as stack:
        taken = jax.process_index() == 0 and not stack.enter_context(_locked(directory))
        if multihost_utils.broadcast_one_to_all(taken):
            holder = ""
            with contextlib.suppress(OSError):  # it may end just now
                holder = (directory / LOCK).read_text(errors="replace")
            raise InputError(
                f"{directory} is in use by {holder or 'another process'}: wait until that has "
                "ended, or choose another directory."
            )
        yield


@contextlib.contextmanager
def wait_for(directory: Path) -> Iterator[None]:
    """As `hold`, but waits until no other job has the directory; for the first process of a job."""
    with _locked(directory) as free:
        if free:
            yield
            return
    print(f"Waiting for another job that fills {directory}.", file=sys.stderr)
    with _locked(directory, wait=True):
        yield


@contextlib.contextmanager
def _locked(directory: Path, wait: bool = False) -> Iterator[bool]:
    """Yields whether the lock of a directory is ours; then the file goes at the end."""
    made = [part for part in (directory, *directory.parents) if not part.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, handle)
            ours, has_locks = _lock(handle, wait, directory)
            # Whoever had it before may have removed the file that we opened.
            with contextlib.suppress(FileNotFoundError):
                if not ours or os.stat(path).st_ino == os.fstat(handle).st_ino:
                    opened = stack.pop_all()
                    break
    with opened:
        if ours:
            with contextlib.suppress(OSError):  # a full disk must not refuse what only reads
                before = os.pread(handle, 1000, 0).decode(errors="replace").strip("\0")
                if before and has_locks:  # who ends in order removes the file
                    print(f"{directory} is taken over from {before}, which ended.", file=sys.stderr)
                os.ftruncate(handle, 0)
                os.pwrite(handle, owner_note(), 0)
            remove_leftovers(directory)
        try:
            yield ours
        finally:
            if ours:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # forked children may keep the file open
                    fcntl.flock(handle, fcntl.LOCK_UN)
                with contextlib.suppress(OSError):  # a job that was refused leaves no directories
                    for part in made:
                        part.rmdir()


def _lock(handle: int, wait: bool, directory: Path) -> tuple[bool, bool]:
    """Locks an open file.

    Returns:
      Whether it could, and whether the file system has locks. Without locks, jobs run without.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False, True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        print(f"No file locks in {directory}: run one job at a time there.", file=sys.stderr)
        return True, False
    return True, True
