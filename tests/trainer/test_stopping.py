"""Signals and a time limit end a run after its step, wherever it is, and lose nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fmrifm.processes import INTERRUPTED_EXIT_CODE, STOPPED_EXIT_CODE
from fmrifm.trainer.loop import train
from fmrifm.trainer.stopping import StopRequestedError, StopSignal
from fmrifm.trainer.throughput import Throughput
from tests.conftest import ROOT
from tests.trainer.commands import metrics, saved_steps, weights

# The main thread sits in C code, as while XLA compiles: Python's handlers do not run.
BUSY = """
import ctypes, os, signal
from fmrifm.trainer.stopping import StopSignal

with StopSignal():
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).usleep(30_000_000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_wait_is_cut_short(number):
    with StopSignal() as stop:
        assert not stop.at(1)
        with pytest.raises(StopRequestedError), stop.waiting():
            os.kill(os.getpid(), number)
            time.sleep(30)
        assert stop.at(1)
        with pytest.raises(StopRequestedError), stop.waiting():
            pytest.fail("A run that has to stop waits for nothing.")


def test_the_allowed_time_ends():
    with StopSignal(max_hours=0.1 / 3600) as stop:
        time.sleep(0.5)
        assert stop.at(1)


def test_a_second_interrupt_ends_at_once():
    job = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert job.stdout.readline() == b"ready\n"
        job.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert job.poll() is None
        job.send_signal(signal.SIGINT)
        error = job.communicate(timeout=20)[1].decode()
    finally:
        job.kill()
    assert job.returncode == INTERRUPTED_EXIT_CODE, error
    assert "Ctrl-C again" in error and "Traceback" not in error


def test_a_batch_that_does_not_come(toy_config, one_device, tmp_path, monkeypatch):
    """A run that waits for a silent server saves its state; the next start loses no step."""
    config = toy_config(total_steps=8, log_every=1, eval_every=4, checkpoint_every=8)
    assert train(config, tmp_path / "calm") == 0
    read, asked = Throughput.next_batch, []

    def read_or_hang(self, batches):
        asked.append(1)
        if len(asked) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return read(self, batches)

    monkeypatch.setattr(Throughput, "next_batch", read_or_hang)
    begin = time.monotonic()
    assert train(config, tmp_path / "run") == STOPPED_EXIT_CODE
    assert time.monotonic() - begin < 50
    assert saved_steps(tmp_path / "run")[-1] == "5"
    assert train(config, tmp_path / "run") == 0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "calm")
    assert weights(tmp_path / "run") == weights(tmp_path / "calm")
