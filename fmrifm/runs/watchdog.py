"""Ends a run in which nothing moves any more, and leaves the stacks of its threads."""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from fmrifm import processes

WAITING, STEPPING = "waiting for a batch", "in the step"
_ORDER = (WAITING, STEPPING)  # who waits for data keeps those who are in the step from ending it
_GRACE = 15.0  # seconds in which all processes notice the same


class Watchdog:
    """Watches that steps finish. Evaluation, checkpoints and probes are not watched.

    When no step has finished for `minutes`, every process writes the stacks of its threads to a
    file of its own, and ends with LOST_EXIT_CODE: the same command continues.
    """

    def __init__(
        self, minutes: float, folder: Path, leave: Callable[[int], None] = os._exit, tick=1.0
    ):
        """
        Args:
          minutes: without a finished step; 0 never ends a run.
          folder: gets a file per process.
          leave: ends the process.
          tick: seconds between looks.
        """
        self._limit, self._folder, self._leave, self._tick = 60 * minutes, folder, leave, tick
        self._step, self._doing, self._since = 0, WAITING, time.monotonic()
        self._paused, self._closing = False, threading.Event()
        if minutes:
            threading.Thread(target=self._watch, daemon=True).start()

    def note(self, step: int, doing: str) -> None:
        """Called when the loop begins to wait for the batch of a step, or to run it."""
        if step != self._step:
            self._since = time.monotonic()
        self._step, self._doing = step, doing

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Work that takes its own time."""
        self._paused = True
        try:
            yield
        finally:
            self._since, self._paused = time.monotonic(), False

    def close(self) -> None:
        self._closing.set()

    def _watch(self) -> None:
        passed, since, before = 0.0, self._since, time.monotonic()
        while not self._closing.wait(self._tick):
            now = time.monotonic()
            if self._paused or since != self._since:
                passed, since = 0.0, self._since
            else:
                passed += min(now - before, 2 * self._tick)  # a suspended job has not hung
            before = now
            if passed > self._limit:
                return self._end()

    def _end(self) -> None:
        process = jax.process_index()
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"process-{process}-step-{self._step}.txt", "w") as file:
            file.write(f"{socket.gethostname()}, step {self._step}, {self._doing}\n\n")
            # The main thread first: faulthandler stops after a hundred threads.
            main = sys._current_frames()[threading.main_thread().ident]
            traceback.print_stack(main, file=file)
            file.write("\n")
            file.flush()
            faulthandler.dump_traceback(file)
        print(
            f"error: No step has finished for {self._limit / 60:g} minutes"
            f"{self._slowest()}. The stacks of all threads are in {self._folder}; the same "
            "command continues from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        self._leave(processes.LOST_EXIT_CODE)

    def _slowest(self) -> str:
        """Names the process that the others wait for."""
        peers, here = processes.PEERS, (self._step, _ORDER.index(self._doing))
        if peers is None:
            return f": step {self._step}, {self._doing}"
        peers.publish("hang", f"{here[0]} {here[1]}")
        time.sleep(_GRACE)
        found = {p: tuple(map(int, text.split())) for p, text in peers.collect("hang").items()}
        silent = [p for p in range(jax.process_count()) if p not in found]
        slowest = silent[0] if silent else min(found, key=lambda p: (found[p], p))
        step, doing = found.get(slowest, here)
        where = "which does not say where it is" if silent else f"step {step}, {_ORDER[doing]}"
        return f": process {slowest} on {peers.host(slowest)} lags, {where}"
