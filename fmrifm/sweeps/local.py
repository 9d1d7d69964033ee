"""Points of a sweep on this machine, some at a time."""

import contextlib
import glob
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from tqdm import tqdm

from fmrifm.sweeps.ledger import DONE, FAILED, PENDING, Ledger
from fmrifm.sweeps.run_point import PointRun
from fmrifm.sweeps.status import describe_score

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def launch_local(ledger: Ledger, names: Sequence[str], jobs: int) -> bool:
    """Runs points, in order.

    SIGINT, SIGTERM, SIGHUP and SIGUSR1 make the runs finish their step and save; no other begins.

    Args:
      names: of points.
      jobs: how many at a time; each gets its share of the GPUs.

    Returns:
      Whether all that was asked for came to an end, good or bad.
    """
    slots: SimpleQueue = SimpleQueue()
    for slot in range(jobs):
        slots.put(_environment(slot, jobs))
    at_work: set[PointRun] = set()
    stopping = threading.Event()

    def work(name: str) -> str:
        if stopping.is_set():
            return PENDING
        environment = slots.get()
        run = PointRun(ledger.workdir, name, environment=environment)
        at_work.add(run)
        try:
            if stopping.is_set():
                run.stop()
            return run.run()
        finally:
            at_work.discard(run)
            slots.put(environment)

    def stop(*_) -> None:
        if not stopping.is_set():
            tqdm.write("Stopping: runs finish their step and save.", file=sys.stderr)
        stopping.set()
        for run in list(at_work):
            run.stop()

    # Left by a wait of the pool's end, exceptions of this thread would leave runs behind.
    with _on_signals(stop), ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(work, name): name for name in names}
        try:
            _follow(futures, ledger)
        except BaseException:
            stop()
            raise
    return not any(future.result() == PENDING for future in futures)


def _follow(futures: dict[Future, str], ledger: Ledger) -> None:
    """Tells what has ended, until all have."""
    left = set(futures)
    with tqdm(total=len(left), unit="point", desc="sweep", disable=None) as progress:
        while left:
            ended, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                name, status = futures[future], future.result()
                if status == DONE:
                    told = f"done    {name}  {describe_score(ledger, name)}".rstrip()
                elif status == FAILED:
                    told = f"failed  {name} (exit {ledger.state(name)['returncode']})"
                else:
                    continue
                tqdm.write(told, file=sys.stderr)
                progress.update()


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """The GPUs of one of several runs at a time, as far as there are enough."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = sorted(glob.glob("/dev/nvidia[0-9]*"), key=lambda path: int(path[11:]))
    gpus = told.split(",") if told else [path[11:] for path in found]
    each = len(gpus) // jobs
    if jobs == 1 or not each:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * each : (slot + 1) * each])}


@contextlib.contextmanager
def _on_signals(handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
