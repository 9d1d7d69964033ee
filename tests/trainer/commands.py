"""Runs of `python -m fmrifm.pretrain` in processes of their own, to be killed and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fmrifm.runs.config import config_dict, flatten
from tests.conftest import FAST_COMPILE, ROOT, load_config

ARGUMENT = "d3,runlocal"


def arguments(config, workdir) -> list[str]:
    """The command line that gives this config."""
    given, default = flatten(config_dict(config)), flatten(config_dict(load_config(arg=ARGUMENT)))
    changed = [f"--config.{k}={v}" for k, v in given.items() if v != default[k] and v is not None]
    file = ROOT / "configs" / "pretrain.py"
    return [f"--config={file}:{ARGUMENT}", f"--workdir={workdir}", *changed]


class Run:
    """One or several processes that share a workdir; they share compiled programs, too."""

    def __init__(self, config, workdir: Path, cache: Path, processes: int = 1, devices: int = 1):
        self.workdir = workdir
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FAST_COMPILE}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "FMRIFM_CACHE": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "fmrifm.pretrain", *arguments(config, workdir)]
        together = [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        self.processes = [
            subprocess.Popen(
                [*command, *(together + [f"--process_id={i}"] if processes > 1 else [])],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(processes)
        ]

    def signal_when(self, seen, number: signal.Signals, process: int = 0) -> list[int]:
        """Sends a signal as soon as `seen()`; returns the exit codes."""
        end = time.monotonic() + 240
        while not seen():
            assert self.processes[0].poll() is None, self.processes[0].communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.002)
        self.processes[process].send_signal(number)
        return self.wait()

    def wait(self) -> list[int]:
        """The exit codes."""
        try:
            self.output = [process.communicate(timeout=240)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes]

    def reached(self, step: int) -> bool:
        """Whether metrics.jsonl has come to a step."""
        return bool(lines := metrics(self.workdir, strict=False)) and lines[-1]["step"] >= step


def saved_steps(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def metrics(workdir: Path, strict: bool = True) -> list[dict]:
    """metrics.jsonl without values that depend on the clock, and their checksums."""
    path = workdir / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if strict or text.endswith("\n"):
            line = json.loads(text)
            lines.append({k: v for k, v in line.items() if not k.startswith("perf/")})
    return lines


def weights(workdir: Path) -> bytes:
    return (workdir / "model" / "model.safetensors").read_bytes()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]
