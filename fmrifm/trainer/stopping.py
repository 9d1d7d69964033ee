"""Reasons to stop early: a signal, or numbers that are no longer finite."""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.input.data import Data
from fmrifm.input.pipeline import TrainBatches
from fmrifm.processes import INTERRUPTED_EXIT_CODE


class NonFiniteError(InputError):
    """The loss, a gradient or a new parameter was not finite."""


def non_finite(
    batches: TrainBatches, data: Data, step: int, checkpoint: int | None, path: Path
) -> NonFiniteError:
    """The error of a step that names the runs of its batch; the first host writes them to a file.

    Args:
      step: counted from 0.
      checkpoint: the last one, None where there is none.
    """

    def read(clip: tuple[int, int, int]) -> tuple[str, bool]:
        source, run, start = clip
        store = data.train[source].store
        frames = store.read(run, start, batches.reader.num_frames)
        return store.runs[run]["key"], bool(np.isfinite(frames).all())

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(read, batches.clips(step)))
    keys = list(dict.fromkeys(key for key, _ in found))
    bad = list(dict.fromkeys(key for key, finite in found if not finite))
    report = {"step": step + 1, "runs": keys, "runs_with_non_finite_data": bad}
    if jax.process_index() == 0:
        write_bytes(path, json.dumps(report, indent=1).encode())
    named = bad or keys
    kept = f"checkpoint {checkpoint} is intact" if checkpoint else "no checkpoint exists yet"
    return NonFiniteError(
        f"The loss, gradient or parameters of step {step + 1} were not finite, from runs "
        f"{', '.join(named[:4])}{' ...' if len(named) > 4 else ''} (all in {path.name}); {kept}: "
        "leave out damaged runs or lower optim.lr."
    )


class StopRequestedError(Exception):
    """The run has to stop while it waits for a batch, which may never come."""


class StopSignal:
    """SIGTERM, SIGUSR1, Ctrl-C or the end of the allowed time: finish the step, save and leave.

    A second Ctrl-C ends the process at once, also while it compiles: a thread of its own sees it,
    since Python's handlers only run between two instructions of the main thread.
    """

    def __init__(self, max_hours: float | None = None):
        self._asked = self._waiting = False
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}
        # The same way as a scheduler's signal, so that several processes agree on a step.
        signal_self = functools.partial(os.kill, os.getpid(), signal.SIGUSR1)
        self._timer = threading.Timer(3600 * (max_hours or 0), signal_self)
        self._timer.daemon = True
        self._limited = max_hours is not None

    def __enter__(self) -> "StopSignal":
        signals = [signal.SIGUSR1, signal.SIGINT]
        for number in signals if self._several else [*signals, signal.SIGTERM]:
            self._previous[number] = signal.signal(number, self._ask)
        self._seen, seen = socket.socketpair()
        self._seen.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._seen.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._count_interrupts, args=[seen], daemon=True).start()
        if self._limited:
            self._timer.start()
        return self

    def __exit__(self, *error) -> None:
        self._timer.cancel()
        signal.set_wakeup_fd(self._wakeup)
        self._seen.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        if self._several:
            # jax's own SIGTERM handler makes all processes agree on a step to stop at.
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked = True
        if self._waiting:
            raise StopRequestedError

    @staticmethod
    def _count_interrupts(seen: socket.socket) -> None:
        count = 0
        with seen:
            while received := seen.recv(16):
                count += received.count(signal.SIGINT)
                if count > 1:
                    print("\nInterrupted.", file=sys.stderr, flush=True)
                    os._exit(INTERRUPTED_EXIT_CODE)
                if signal.SIGINT in received:
                    text = "Stopping after this step; Ctrl-C again ends at once, without saving."
                    print(f"\n{text}", file=sys.stderr, flush=True)

    def at(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wraps a wait that a signal ends, by StopRequestedError; only in a job of one process."""
        self._waiting = not self._several
        try:
            if self._waiting and self._asked:
                raise StopRequestedError
            yield
        finally:
            self._waiting = False
