"""Byte ranges of a file, wherever it lies; a request that fails is made again.

Networks and object stores fail now and then and ask for patience when they are busy. What may work
the next time is asked for again, after pauses that double and differ between requests, so that they
do not return together; what will not (no such file, no permission) is told at once.
"""

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from data_tools.errors import InputError
from data_tools.files.remote import (
    error_status,
    file_system,
    is_absence,
    is_remote_error,
    is_url,
    remote_errors,
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds
_BUSY = (408, 425, 429)  # of the answers that blame the request, those that say "later"

T = TypeVar("T")


class Retries:
    """How long failed requests of a store are repeated.

    Attributes:
      patience: seconds for which one request may fail; few while a store is opened, as then a wrong
        address is likely, more than a short outage takes while it is read.
    """

    def __init__(self, patience: float):
        self.patience = patience
        self._ended = threading.Event()
        self._told = False

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return Retries, (self.patience,)

    def end(self) -> None:
        """From now on the first failure counts: nobody waits for the answer any more."""
        self._ended.set()

    def call(self, request: Callable[[], T]) -> T:
        """Makes a request until it succeeds, can't succeed, or has failed for too long."""
        end, pause = time.monotonic() + self.patience, _FIRST_PAUSE
        while True:
            try:
                return request()
            except Exception as error:
                if not _may_pass(error) or time.monotonic() + pause > end:
                    raise
                if not self._told:  # it may explain a run that waits for data
                    self._told = True
                    cause = error.__cause__ or error
                    reason = " ".join(str(cause).split()) or type(cause).__name__
                    said = f"Reading failed and is tried again: {reason}"
                    print(said, file=sys.stderr, flush=True)
            if self._ended.wait(pause * random.uniform(0.5, 1)):
                end = 0.0
            pause = min(2 * pause, _LONGEST_PAUSE)


class RangedFile:
    """A file of which byte ranges are read; may be shared by threads and pickled."""

    def __init__(self, place: str | os.PathLike, retries: Retries):
        """Opens nothing yet.

        Args:
          place: path or URL.
        """
        self.place, self._retries = str(place), retries

    def size(self) -> int | None:
        """Bytes in all; None where a server does not tell. InputError if it is not there."""
        if not is_url(self.place):
            return Path(self.place).stat().st_size
        files, path = file_system(self.place)
        with remote_errors(self.place):
            return self._retries.call(lambda: files.size(path))

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop).

        Raises:
          InputError: they cannot be had, or the server knows no ranges.
        """
        with remote_errors(self.place):
            return self._retries.call(lambda: self._read(start, stop))

    def _read(self, start: int, stop: int) -> bytes:
        if is_url(self.place):
            files, path = file_system(self.place)
            data = files.cat_file(path, start=start, end=stop)
        else:
            with open(self.place, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), stop - start, start)
        if len(data) > stop - start:
            raise InputError(
                f"The server of {self.place} sends whole files where parts are asked for: serve it "
                "from one that knows ranges, or copy the store."
            )
        if len(data) < stop - start:
            told = f"{len(data):,} of {stop - start:,} bytes of {self.place} came"
            raise OSError(errno.EIO, told)
        return data


def _may_pass(error: Exception) -> bool:
    """Whether what went wrong may go well the next time."""
    if isinstance(error, InputError) or not is_remote_error(error):
        return False
    status = error_status(error)
    if status is not None:
        return not 400 <= status < 500 or status in _BUSY
    if str(error).startswith("Forbidden"):
        return False  # as gcsfs has it
    lasting = (PermissionError, IsADirectoryError, NotADirectoryError)
    return not is_absence(error) and not isinstance(error, lasting)
