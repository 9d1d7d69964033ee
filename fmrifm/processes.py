"""Several processes of one job: they meet, watch each other, and end together.

JAX notices a lost process after 100 seconds, and then aborts the others. A scheduler cannot tell
that from a bug. Here every process publishes a sign of life, and the job ends within a minute with
a sentence and a code that means "the same command continues".
"""

import atexit
import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
from jax._src.distributed import global_state  # no public name gives the key-value store

STOPPED_EXIT_CODE = 75  # saved and stopped on request: the same command continues
LOST_EXIT_CODE = 76  # a process was lost or nothing moved: the same command continues
INTERRUPTED_EXIT_CODE = 130  # by a second Ctrl-C, as shells have it
_CONTINUES = "The same command continues from the last checkpoint."
_SIGNS, _NOTES = "fmrifm/signs", "fmrifm/notes"
_PAUSE = 2.0  # seconds between signs of life
_PATIENCE = 30.0  # seconds without one until a process counts as lost
_GRACE = 10.0  # seconds in which the others may find out by themselves
# Errors of collective operations whose cause is often that another process has ended.
_NETWORK = re.compile("gloo|nccl|unavailable|deadline|connection|coordination|peer|barrier", re.I)


class Peers:
    """The other processes of this job, as this one sees them."""

    def __init__(self):
        self._client, self._me = global_state.client, global_state.process_id
        self._count = global_state.num_processes
        self._address = global_state.coordinator_address
        self._state, self._signs = "alive", 0
        self._last: dict[int, tuple[str, str]] = {}  # process -> its last sign and its host
        self._silent = dict.fromkeys(range(self._count), 0.0)  # seconds since the last sign
        self._failed = 0.0  # seconds since another process has failed
        self._closing = threading.Event()
        self._exchange()
        for work in (self._keep_exchanging, self._keep_watching):
            threading.Thread(target=work, daemon=True).start()
        atexit.register(self.close)
        self._end_of_coordinator = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._end_of_coordinator)

    def close(self, state: str = "done") -> None:
        """Publishes that this process ends, so that nobody waits for another sign."""
        if not self._closing.is_set():
            self._state = state
            self._closing.set()
            with contextlib.suppress(Exception):  # the first process may have ended
                self._exchange()

    def host(self, process: int) -> str:
        return self._last.get(process, ("", "an unknown host"))[1]

    def publish(self, name: str, text: str) -> None:
        """Leaves a note for the other processes."""
        self._client.key_value_set(f"{_NOTES}/{name}/{self._me}", text, allow_overwrite=True)

    def collect(self, name: str) -> dict[int, str]:
        """The notes of this name by process, those of processes that left one."""
        found = self._client.key_value_dir_get(f"{_NOTES}/{name}/")
        return {int(key.rpartition("/")[2]): text for key, text in found}

    def fail(self, code: int) -> None:
        """Ends this process with a code; does not wait for the others, who may be stuck."""
        self.close("failed")
        if self._me == 0:
            # When the first process ends, JAX aborts those that do not know of its error yet.
            end = time.monotonic() + _GRACE + 2 * _PAUSE
            while time.monotonic() < end and not self._all_left():
                time.sleep(0.2)
                with contextlib.suppress(Exception):
                    self._exchange()
        _exit(code)

    def wait_for_cause(self) -> None:
        """Gives the watching thread time to find a lost process, and then ends with its code."""
        self._closing.wait(_PATIENCE + 4 * _PAUSE + _GRACE)

    def _all_left(self) -> bool:
        return all(sign.startswith(("done", "failed")) for sign, _ in self._last.values())

    def _exchange(self) -> None:
        self._signs += 1
        text = f"{self._state} {self._signs}|{socket.gethostname()}"
        self._client.key_value_set(f"{_SIGNS}/{self._me}", text, allow_overwrite=True)
        for key, text in self._client.key_value_dir_get(f"{_SIGNS}/"):
            process, (sign, _, host) = int(key.rpartition("/")[2]), text.partition("|")
            if self._last.get(process, ("",))[0] != sign:
                self._last[process] = sign, host
                self._silent[process] = 0.0
        self._silent[0] = 0.0  # the first process answered

    def _keep_exchanging(self) -> None:
        while not self._closing.wait(_PAUSE):
            with contextlib.suppress(Exception):  # silence is what the other thread looks at
                self._exchange()

    def _keep_watching(self) -> None:
        before = time.monotonic()
        while not self._closing.wait(1.0):
            now = time.monotonic()
            passed = min(now - before, 2.0)  # a job that was suspended must not blame its peers
            before = now
            for process, sign in list(self._last.items()):
                if process == self._me or sign[0].startswith("done"):
                    continue
                self._silent[process] += passed
                if sign[0].startswith("failed"):
                    self._failed += passed
                    if self._failed > _GRACE:
                        self._end(f"Process {process} on {sign[1]} ended with an error.", 1)
                # The signs of others come through the first process.
                elif self._silent[process] > _PATIENCE + 2 * _PAUSE * (process > 0):
                    self._end(
                        f"Process {process} on {sign[1]} has given no sign of life for "
                        f"{self._silent[process]:.0f} s. {_CONTINUES}",
                        LOST_EXIT_CODE,
                    )

    def _end(self, sentence: str, code: int) -> None:
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        if self._me == 0:
            time.sleep(_GRACE)  # for the others to find the same
        _exit(code)

    def _aborted(self, number: int) -> None:
        """Runs in the thread in which JAX aborts, as it does when the first process has ended."""
        if self._me:
            try:
                socket.create_connection(self._address.rsplit(":", 1), timeout=5).close()
            except OSError:
                text = f"Process 0 on {self.host(0)} has ended. {_CONTINUES}"
                print(f"error: {text}", file=sys.stderr, flush=True)
                _exit(LOST_EXIT_CODE)
        # Any other abort is a bug, and the system ends this process as usual.
        ctypes.CDLL(None).signal(number, None)


PEERS: Peers | None = None  # none in a job of one process


def meet(*args) -> None:
    """Joins the other processes of the job; arguments as of `jax.distributed.initialize`."""
    global PEERS
    jax.distributed.initialize(*args)
    if global_state.num_processes > 1:
        PEERS = Peers()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Wraps a main: a process that fails does not leave the others waiting for it."""
    try:
        yield
    except SystemExit as stop:
        code = stop.code
        if PEERS and isinstance(code, int) and code not in (0, STOPPED_EXIT_CODE):
            PEERS.fail(code)
        raise
    except Exception as error:
        if not PEERS:
            raise
        if _NETWORK.search(f"{error}"):
            PEERS.wait_for_cause()
        traceback.print_exc()
        PEERS.fail(1)


def _exit(code: int) -> None:
    """Ends the process without JAX's own shutdown, which waits for lost processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
