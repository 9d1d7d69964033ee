"""Reasons to stop early: a signal, or numbers that are no longer finite."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.input.data import Data
from fmrifm.input.pipeline import TrainBatches

STOPPED_EXIT_CODE = 75  # the sysexits code for "try again": the same command continues the run


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
