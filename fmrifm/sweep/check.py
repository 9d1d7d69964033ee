"""Every point of a sweep is checked before the first one starts.

This happens in a process of its own: one that has touched the accelerators would hold their memory
while points run. It alone imports what checks take (point_problem.py).
"""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.sweep.sweep_file import Experiment


def check_points(
    experiments: Sequence[Experiment],
    devices: int,
    environment: Mapping[str, str],
    probe_config: Callable[[str], ConfigDict],
) -> None:
    """Checks points, with a progress bar.

    Args:
      environment: variables that a point will have.
      devices: how many a point will have, where it runs elsewhere; 0 for those of this machine.
      probe_config: get_config of configs/probe.py; other processes must be able to import it.
    """
    if not experiments:
        return
    spawn = multiprocessing.get_context("spawn")
    problems = []
    with ProcessPoolExecutor(1, spawn, _as_elsewhere, (devices, dict(environment))) as pool:
        find = functools.partial(_problem, probe_config)
        found = pool.map(find, [experiment.commands for experiment in experiments])
        bar = tqdm(experiments, unit="point", desc="check", disable=None)
        try:
            for experiment, problem in zip(bar, found, strict=True):
                if problem:
                    problems.append((experiment.name, problem))
        except BrokenProcessPool as error:
            raise InputError("The process that checks points was ended: free memory.") from error
    if problems:
        count = f"{len(problems)} of {len(experiments)} points"
        told = "\n".join(f"  {name}: {problem}" for name, problem in problems)
        raise InputError(f"{count} cannot run, so none was started:\n{told}")


def _as_elsewhere(devices: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    sys.stdout = sys.stderr  # where commands go that are printed
    if devices:
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)


def _problem(probe_config: Callable[[str], ConfigDict], commands: list[list[str]]) -> str | None:
    from fmrifm.sweep.point_problem import find_problem

    try:
        return find_problem(commands, probe_config)
    except Exception as error:  # a bug, of ours or of the config file: the point's own to tell
        return f"{type(error).__name__}: {error}"
