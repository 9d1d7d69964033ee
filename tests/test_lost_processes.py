"""A job of several processes ends soon and with a telling code when one of them does not go on."""

import signal
import subprocess
import sys
import time

import pytest

from fmrifm.processes import LOST_EXIT_CODE
from tests.conftest import ROOT
from tests.trainer.commands import free_port

# Two processes that exchange a number again and again; the one that is named fails on its own.
JOB = """
import sys, time
import jax, numpy as np
from jax.experimental import multihost_utils
from data_tools.errors import InputError, kind_errors
from fmrifm import processes

processes._PATIENCE, processes._PAUSE, processes._GRACE = 3.0, 0.5, 2.0
address, me, failing = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
with processes.ending_together(), kind_errors():
    processes.meet(address, 2, me)
    for i in range(600):
        if i == 3 and me == failing:
            raise InputError("Its disk is full.")
        multihost_utils.broadcast_one_to_all(np.float32(i))
        if i == 2:
            print("ready", flush=True)
        time.sleep(0.1)
"""


def run_job(failing: int = -1) -> list[subprocess.Popen]:
    """Starts the two processes and returns when both have exchanged numbers."""
    command = [sys.executable, "-c", JOB, f"localhost:{free_port()}"]
    job = [
        subprocess.Popen(
            [*command, str(me), str(failing)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for me in range(2)
    ]  # fmt: skip
    for process in job:
        while (line := process.stdout.readline()) != "ready\n":
            assert line, process.communicate()
    return job


@pytest.mark.parametrize(
    "victim, number", [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_the_others_end_when_a_process_is_lost(victim, number):
    job = run_job()
    other, begin = job[1 - victim], time.monotonic()
    try:
        job[victim].send_signal(number)
        error = other.communicate(timeout=60)[1]
    finally:
        for process in job:
            process.kill()
    assert other.returncode == LOST_EXIT_CODE, error
    last = error.splitlines()[-1]
    assert last.startswith(f"error: Process {victim} on ") and "same command continues" in last
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("failing", [0, 1])
def test_the_others_end_when_a_process_fails(failing):
    """An error that only one process meets is no reason to start the job again."""
    job = run_job(failing)
    try:
        errors = [process.communicate(timeout=60)[1] for process in job]
    finally:
        for process in job:
            process.kill()
    assert [process.returncode for process in job] == [1, 1], errors
    assert errors[failing].splitlines()[-1] == "error: Its disk is full."
    assert f"Process {failing} on " in errors[1 - failing]
