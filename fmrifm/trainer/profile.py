"""A JAX profile of some steps, for TensorBoard or Perfetto."""

import re
from importlib.util import find_spec
from pathlib import Path

import jax

from data_tools.errors import InputError
from fmrifm.runs.goodput import Account


def parse_profile(text: str | None, total_steps: int) -> range:
    """The steps, counted from 1 as in metrics.jsonl, that START:COUNT names; none for None."""
    if text is None:
        return range(0)
    if find_spec("libtpu") and not jax.config.jax_platforms and jax.default_backend() != "tpu":
        # JAX has taken it for a TPU's, and its profiler ends the process.
        raise InputError(
            f"--profile={text} needs JAX_PLATFORMS={jax.default_backend()} in the environment, as "
            "libtpu is installed here and there is no TPU."
        )
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text, re.ASCII)
    if not found:
        raise InputError(f"--profile={text} is not START:COUNT with numbers from 1 on, like 100:5.")
    start, count = map(int, found.groups())
    if start + count - 1 > total_steps:
        raise InputError(
            f"--profile={text} ends with step {start + count - 1}, and the run with step "
            f"{total_steps}: choose earlier ones."
        )
    return range(start, start + count)


class Profile:
    """Writes a profile of steps; each process writes its own.

    A run that goes on from amid these steps writes another one, of those that are left.
    """

    def __init__(self, steps: range, directory: Path, account: Account):
        self._steps, self._directory, self._account = steps, directory, account
        if jax.process_count() > 1:  # files are called by the host, which processes may share
            self._directory = directory / f"process-{jax.process_index()}"
        self._running = False

    def begins_with(self, step: int) -> bool:
        return step in self._steps and not self._running

    def ends_with(self, step: int) -> bool:
        return self._running and step == self._steps[-1]

    def start(self) -> None:
        with self._account.spent("profile"):
            self._directory.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._directory)
        self._running = True

    def close(self) -> None:
        """Writes what has happened so far, if it has begun."""
        if self._running:
            self._running = False
            with self._account.spent("profile"):
                jax.profiler.stop_trace()
