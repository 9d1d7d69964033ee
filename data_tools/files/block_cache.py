"""A bounded directory of blocks of remote stores, on a local disk or in memory (a tmpfs).

```
CACHE/STORE/.in-use  locked by every process that reads this store; changed when it was opened
CACHE/STORE/FILE.K   block K of a file: its bytes, then their crc32
```
STORE is a digest of the store's contents, so that one made anew never meets old blocks. Blocks are
written in the background and appear by rename; what a crash damaged fails its checksum and is
fetched again. A full cache keeps what it has: clips are drawn at random, so that one part of the
data serves as well as another, and nothing is written that would soon be thrown out. Only stores
that nobody reads make room, those opened longest ago first.
"""

import contextlib
import fcntl
import os
import queue
import secrets
import shutil
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

from data_tools.errors import InputError, describe_os_error

_WAITING = 256  # blocks that may wait to be written; more are left out
_STALE = 3600  # seconds after which an unfinished block is one of a killed process
_RESCAN = 0.01  # of the bound: after so many bytes see what other processes have added
_CHECKSUM = struct.Struct("<I")


class BlockCache:
    """The cache of one process; others may share its directory."""

    def __init__(self, directory: str | os.PathLike, most_bytes: int):
        """
        Raises:
          InputError: the directory cannot be made or written.
        """
        self.directory, self.most_bytes = Path(directory).absolute(), int(most_bytes)
        if self.most_bytes <= 0:
            raise InputError(f"A cache of {most_bytes} bytes holds nothing: set data.cache_gb.")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"data.cache_dir: {describe_os_error(error)}") from error
        self._start()

    def __getstate__(self):
        return {"directory": self.directory, "most_bytes": self.most_bytes}

    def __setstate__(self, state):
        vars(self).update(state)
        self._start()

    def _start(self) -> None:
        self._queue: queue.Queue[tuple[Path, bytes]] = queue.Queue(_WAITING)
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._intact: set[str] = set()  # blocks whose checksum was seen to match
        self._in_use: dict[str, int] = {}  # locked handles, kept until the process ends
        self._full = False
        self._held: int | None = None  # bytes when last looked
        self._since = 0  # bytes added since

    def open(self, store: str) -> None:
        """Tells other processes, until this one ends, that a store is read."""
        if store in self._in_use:
            return
        mark = self.directory / store / ".in-use"
        while True:
            mark.parent.mkdir(exist_ok=True)
            handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(handle, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(mark), os.fstat(handle)):
                    break
            os.close(handle)  # another process has just made room of it
        os.utime(handle)
        self._in_use[store] = handle

    def get(self, store: str, name: str) -> bytes | None:
        """A block, or None where it is not here or damaged."""
        path = os.path.join(self.directory, store, name)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except OSError:
            return None
        body, told = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
        if path not in self._intact:
            if len(told) < _CHECKSUM.size or _CHECKSUM.pack(zlib.crc32(body)) != told:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                return None
            self._intact.add(path)
        return body

    def put(self, store: str, name: str, block: bytes) -> None:
        """Has a block written in the background; drops it if the cache is full or busy."""
        if self._full:
            return
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, daemon=True)
                self._writer.start()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((self.directory / store / name, block))

    def settle(self) -> None:
        """Returns when what was put so far is written or dropped."""
        self._queue.join()

    def _write_all(self) -> None:
        while True:
            path, block = self._queue.get()
            try:
                if self._held is None:
                    self._held = self._scan()
                self._write(path, block)
            except OSError as error:
                self._full = True
                print(f"The cache takes no more: {describe_os_error(error)}", file=sys.stderr)
            finally:
                self._queue.task_done()

    def _write(self, path: Path, block: bytes) -> None:
        if self._full or path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        size = len(block) + _CHECKSUM.size
        if self._since > _RESCAN * self.most_bytes:
            self._held, self._since = self._scan(), 0
        if self._held + self._since + size > self.most_bytes and not self._make_room(size):
            self._full = True
            return
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(beside, "xb", buffering=0) as file:
                file.write(block)
                file.write(_CHECKSUM.pack(zlib.crc32(block)))
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._since += size

    def _make_room(self, size: int) -> bool:
        """Removes stores that nobody reads, as far as needed; whether that was enough."""
        marks = [store / ".in-use" for store in self._stores() if store.name not in self._in_use]
        for mark in sorted(marks, key=lambda m: m.stat().st_mtime if m.exists() else 0):
            # It is made where a kill left a store without.
            with contextlib.suppress(OSError), open(mark, "ab") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(mark.parent)
            self._held, self._since = self._scan(), 0
            if self._held + size <= self.most_bytes:
                return True
        return False

    def _stores(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if path.is_dir()]

    def _scan(self) -> int:
        """Bytes of all blocks; what killed processes left unfinished is removed."""
        total = 0
        for store in self._stores():
            for path in list(store.iterdir()):
                with contextlib.suppress(OSError):  # another process may have removed it
                    found = path.stat()
                    total += found.st_size
                    unfinished = path.name.startswith(".") and path.name != ".in-use"
                    if unfinished and time.time() - found.st_mtime > _STALE:
                        path.unlink()
        return total
