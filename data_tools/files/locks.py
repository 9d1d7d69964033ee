"""Locks on an output, so that one job at a time writes it, with a note on who does.

Locks are those of the operating system (flock): they end with their process, even with one that is
killed, so that whoever gets the lock may clear away what the last owner left.
"""

import contextlib
import errno
import fcntl
import getpass
import os
import socket
import sys
import time
import warnings
from pathlib import Path

from data_tools.errors import InputError
from data_tools.safe_text import without_secrets

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class OutputLock:
    """The lock of an output, held from here to `release`.

    Attributes:
      is_held: False on a file system that has no locks.
    """

    def __init__(self, path: Path, output: Path):
        """Takes the lock in the file `path`, which is made, or taken over from a killed job.

        Raises:
          InputError: another job has it, whom the sentence names; it is that of `output`.
        """
        while True:
            try:
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
                self.is_held = _try_lock(self._handle)
                # Whoever had it before may have removed the file that we opened.
                if os.stat(path).st_ino == os.fstat(self._handle).st_ino:
                    break
                os.close(self._handle)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise _in_use(output, "another process") from None
            except BlockingIOError:
                note = os.pread(self._handle, 1000, 0).decode(errors="replace")
                os.close(self._handle)
                raise _in_use(output, note or "another process") from None
        if not self.is_held:
            warnings.warn(f"No file locks at {path}: run one writer at a time.", stacklevel=3)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, owner_note(), 0)

    def release(self) -> None:
        """Lets other jobs have it."""
        with contextlib.suppress(OSError):  # forked children may still hold the file open
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)


def owner_note() -> bytes:
    """Describes this process (pid, user, host, start, command) to a job that finds it here."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no name belongs to the user id, as in some containers
        user = f"user {os.getuid()}"
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    command = without_secrets(" ".join(sys.argv))[:200]
    note = f"process {os.getpid()} of {user} on {socket.gethostname()} since {since} ({command})"
    return note.encode(errors="replace")


def _try_lock(handle: int) -> bool:
    """Takes a lock; False if the file system has no locks.

    Raises BlockingIOError if another process holds the lock.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _in_use(output: Path, holder: str) -> InputError:
    return InputError(
        f"{output} is being written by {holder}: wait until that has ended, or choose another path."
    )
