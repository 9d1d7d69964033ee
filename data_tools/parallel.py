"""Work in several processes, with a progress bar."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import tqdm

from data_tools.errors import InputError


def in_parallel(
    calls: Sequence[Callable[[], Any]],
    jobs: int,
    description: str,
    unit: str,
    *,
    ordered: bool = False,
) -> Iterator[Any]:
    """Makes calls in processes of their own and yields what they return.

    Args:
      calls: functions without arguments, such as `functools.partial` makes them.
      jobs: number of processes, -1 for one a core.
      description, unit: for the progress bar.
      ordered: whether results come in the order of the calls, rather than as they are done; the
        progress bar of such work goes away at the end.
    """
    if jobs == 0:
        raise InputError("There is no work in 0 processes: give a number of processes, or -1.")
    if not calls:
        return
    n_jobs = max(1, min(joblib.effective_n_jobs(jobs), len(calls)))
    kind = "generator" if ordered else "generator_unordered"
    results = joblib.Parallel(n_jobs, return_as=kind)(joblib.delayed(call)() for call in calls)
    try:
        yield from tqdm.tqdm(results, description, len(calls), unit=unit, leave=not ordered)
    finally:
        # Stopping early cancels the work that is left, of which joblib would warn.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()
