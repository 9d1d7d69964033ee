"""Reasons to stop early: a signal, or numbers that are no longer finite."""

import os
import signal

import jax
from jax.experimental import multihost_utils

from data_tools.errors import InputError

STOPPED_EXIT_CODE = 75  # the sysexits code for "try again": the same command continues the run


class NonFiniteError(InputError):
    """The loss or a gradient was not finite."""


class StopSignal:
    """SIGTERM or SIGUSR1 asks the loop to finish its step, save and leave."""

    def __init__(self):
        self._asked = False
        self._several = jax.process_count() > 1
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        signals = [signal.SIGUSR1] if self._several else [signal.SIGUSR1, signal.SIGTERM]
        for number in signals:
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        if self._several:
            # jax's own SIGTERM handler makes all processes agree on a step to stop at.
            os.kill(os.getpid(), signal.SIGTERM)
        self._asked = True

    def at(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process."""
        if self._several:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
