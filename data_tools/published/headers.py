"""Headers of sources, read before anything is written: sizes, and what is wrong."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.parallel import in_parallel
from data_tools.published.source import Source
from data_tools.spaces.geometry import Geometry

# Key, frames and columns of a run, or what is wrong with it.
_Scanned = tuple[str, int, int] | Outcome


def scan_sources(sources: Sequence[Source], geometry: Geometry, jobs: int) -> Iterator[_Scanned]:
    """The headers of the runs of sources: key, frames and columns, or what is wrong.

    Args:
      sources: to be read, in processes of their own.
      geometry: that their columns should be of.
      jobs: number of processes, -1 for one a core.
    """
    work = [functools.partial(_scan, source, geometry) for source in sources]
    owners: dict[str, str] = {}
    with contextlib.closing(in_parallel(work, jobs, "headers", "source", ordered=True)) as scans:
        for source, runs in zip(sources, scans, strict=True):
            for run in runs:
                if not isinstance(run, Outcome) and run[0] in owners:
                    reason = twice(run[0], source.name, owners[run[0]])
                    run = Outcome(run[0], Path(source.name), reason)
                elif not isinstance(run, Outcome):
                    owners[run[0]] = source.name
                yield run


def _scan(source: Source, geometry: Geometry) -> list[_Scanned]:
    place, found = Path(source.name), []
    try:
        with as_input_errors():
            for run in source.scan():
                if not isinstance(run, Outcome) and run[2] != geometry.width:
                    reason = wrong_width(f"Run {run[0]} of {source.name}", "bold", run[2], geometry)
                    run = Outcome(run[0], place, reason)
                found.append(run)
    except InputError as error:
        found.append(Outcome(source.name, place, str(error)))
    return found


def first_problem(sources: Sequence[Source], geometry: Geometry, jobs: int) -> Outcome | None:
    """The first thing wrong in the headers of sources, if anything; see `scan_sources`."""
    with contextlib.closing(scan_sources(sources, geometry, jobs)) as runs:
        return next((run for run in runs if isinstance(run, Outcome)), None)


def wrong_width(name: str, what: str, width: int, geometry: Geometry) -> str:
    """A sentence on an array of a run that is not of the columns of a space."""
    return (
        f"{name} has a {what} of {width:,} columns and its space '{geometry.space}' has "
        f"{geometry.width:,}: give --geometry of its own space, or get it again."
    )


def twice(key: str, source: str, other: str) -> str:
    """A sentence on a key that two runs have."""
    also = "twice" if source == other else f"and in {other} too"
    return f"Run {key} is in {source} {also}: give every run its own key, or only one of them."
