"""Points of a sweep on this machine, some at a time."""

import contextlib
import glob
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.sweep.ledger import DONE, FAILED, PENDING, Ledger
from fmrifm.sweep.run_point import PointRun
from fmrifm.sweep.status import describe_score, last_values

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_POLL = 0.5  # seconds


def launch_local(ledger: Ledger, names: Sequence[str], jobs: int) -> bool:
    """Runs points, in order.

    SIGINT, SIGTERM, SIGHUP and SIGUSR1 make the runs finish their step and save; no other begins.
    Work that a killed launcher has left behind is waited for first, as it holds its devices.

    Args:
      names: of points.
      jobs: how many at a time; each gets its share of the GPUs.

    Returns:
      Whether all that was asked for came to an end, good or bad.
    """
    slots: SimpleQueue = SimpleQueue()
    for slot in range(jobs):
        slots.put(share_of_gpus(slot, jobs))
    crew = _Crew()

    def work(name: str) -> str:
        environment = slots.get()
        try:
            return crew.run(PointRun(ledger.workdir, name, environment=environment))
        finally:
            slots.put(environment)

    with _on_signals(crew.stop):
        _wait_for_others(ledger, crew)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(work, name): name for name in names}
            try:
                _follow(futures, ledger)
            except BaseException:  # the pool waits for its runs, which shall not take hours
                crew.stop()
                raise
    return not any(future.result() == PENDING for future in futures)


def share_of_gpus(slot: int, jobs: int) -> dict[str, str]:
    """The variable that shows one of several points at a time its part of the GPUs."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = range(len(glob.glob("/dev/nvidia[0-9]*")))  # CUDA counts those that are here
    gpus = [x for x in told.split(",") if x] if told is not None else [str(i) for i in found]
    if jobs == 1 or not gpus:
        return {}
    each = len(gpus) // jobs
    if not each:
        raise InputError(f"--jobs={jobs} is more than the {len(gpus)} GPUs here: give no more.")
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * each : (slot + 1) * each])}


class _Crew:
    """Runs at work, which stop together."""

    def __init__(self):
        self.stopping = False
        self._at_work: set[PointRun] = set()

    def run(self, run: PointRun) -> str:
        self._at_work.add(run)
        try:
            if self.stopping:
                run.stop()
            return run.run()
        finally:
            self._at_work.discard(run)

    def stop(self, *_) -> None:
        """Asks all for an end; a signal handler."""
        first, self.stopping = not self.stopping, True
        for run in list(self._at_work):
            run.stop()
        if first:
            _say("Stopping: runs finish their step and save.")


def _wait_for_others(ledger: Ledger, crew: _Crew) -> None:
    for name in ledger.experiments:
        if ledger.is_locked(name):
            _say(f"{name} is still at work, started by another process: waiting for it.")
        while ledger.is_locked(name) and not crew.stopping:
            time.sleep(_POLL)


def _follow(futures: dict[Future, str], ledger: Ledger) -> None:
    """Tells what has ended, until all have."""
    left = set(futures)
    with tqdm(total=len(left), unit="point", desc="sweep", disable=None) as progress:
        while left:
            ended, left = wait(left, timeout=_POLL, return_when=FIRST_COMPLETED)
            for future in ended:
                name, status = futures[future], future.result()
                if status == DONE:
                    score = describe_score(last_values(ledger.workdir / name))
                    _say(f"done    {name}  {score}".rstrip())
                elif status == FAILED:
                    _say(f"failed  {name} (exit {ledger.state(name)['returncode']})")
                progress.update(status != PENDING)


def _say(text: str) -> None:
    """Whoever started the sweep may be gone; that ends nothing."""
    with contextlib.suppress(OSError, RuntimeError):
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def _on_signals(handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
