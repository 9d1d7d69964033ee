"""Runs one point of a sweep: its stages one after the other, each a process of its own."""

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from data_tools.safe_text import without_secrets
from fmrifm.sweep.arguments import quote
from fmrifm.sweep.ledger import DONE, FAILED, PENDING, RUNNING, Ledger

LOG = "log.txt"
_SHOWN = 12  # last lines of a stage that failed
_POLL = 0.5  # seconds


class PointRun:
    """One attempt at a point; what earlier ones have done is not done again."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        name: str,
        extra: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        writes: bool = True,
    ):
        """
        Args:
          workdir: of the sweep.
          extra: flags of every stage.
          environment: variables beside those of this process.
          writes: whether this process keeps the ledger; of several that share a point only one.
        """
        self.workdir, self.name = str(workdir), name
        self._extra, self._environment = tuple(extra), dict(environment or {})
        self._writes = writes
        self._stopping = False
        self._child: int | None = None

    def run(self) -> str:
        """Returns the point's status after it: done, failed, or pending where it was stopped."""
        ledger = Ledger(self.workdir)
        if not self._writes:
            return self._run_stages(ledger, ())
        while not self._stopping:
            with ledger.locked(self.name) as lock:
                if lock is not None:
                    return self._run_stages(ledger, (lock,))
            time.sleep(_POLL)  # another process is at it
        return PENDING

    def stop(self) -> None:
        """Asks for an end after the present step; safe in signal handlers and other threads."""
        self._stopping = True
        if (child := self._child) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGUSR1)

    def wait_for_child(self) -> None:
        """Returns when the process of the present stage has ended, without reaping it."""
        if (child := self._child) is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)

    def _run_stages(self, ledger: Ledger, keep: Sequence[int]) -> str:
        commands, state = ledger.commands(self.name), ledger.state(self.name)
        if state["status"] == DONE:
            return DONE
        place = Path(self.workdir) / self.name
        place.mkdir(parents=True, exist_ok=True)
        done = state["done"]
        for command in commands[len(done) :]:
            about = {"current": command, "directory": ledger.directory, "host": platform.node()}
            self._note(ledger, status=RUNNING, returncode=None, error=None, **about)
            with open(place / LOG, "a+b") as log:
                code, told = self._run_stage(command, ledger.directory, log, keep)
            # A stage that cannot save, or has not begun to train, is ended by the signal.
            if code in (os.EX_TEMPFAIL, -signal.SIGUSR1) or (self._stopping and code < 0):
                self._note(ledger, status=PENDING, returncode=code)
                return PENDING
            if code:
                self._note(ledger, status=FAILED, returncode=code, error=told)
                return FAILED
            done = [*done, command]
            self._note(ledger, done=done)
        self._note(ledger, status=DONE, returncode=0)
        return DONE

    def _run_stage(
        self, command: list[str], directory: str, log: IO[bytes], keep: Sequence[int]
    ) -> tuple[int, str]:
        """The exit code, and the last lines of what was said."""
        command = [*command, *self._extra]
        log.write(f"$ {without_secrets(quote(command))}\n".encode())
        log.flush()
        begin = log.tell()
        with subprocess.Popen(
            [sys.executable, *command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment},
            pass_fds=keep,  # so that the lock lives as long as the work
            start_new_session=True,  # Ctrl-C is for the launcher, which asks for an end in order
        ) as child:
            self._child = child.pid
            if self._stopping:  # asked for just before
                self.stop()
            try:
                code = child.wait()
            finally:
                self._child = None
        return code, last_lines(log, begin)

    def _note(self, ledger: Ledger, **changes) -> None:
        if self._writes:
            ledger.note(self.name, **changes)


def last_lines(log: IO[bytes], begin: int, count: int = _SHOWN) -> str:
    """The end of a log from a byte on; of lines that were written over each other, the last."""
    log.seek(max(begin, log.seek(0, os.SEEK_END) - 2**16))
    text = re.sub(r"\x1b\[[\d;]*\w", "", log.read().decode(errors="replace"))
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join([line for line in lines if line][-count:])
