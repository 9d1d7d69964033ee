"""What the headers of sources tell before anything is read or written: sizes, and what is wrong."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib
import tqdm

from data_tools.convert.conversion import n_processes, quietly_closed
from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.published.source import Source
from data_tools.spaces.geometry import Geometry

# Key, frames and columns of a run, or what is wrong with it.
_Scanned = tuple[str, int, int] | Outcome


def scan_sources(
    sources: Sequence[Source], geometry: Geometry, jobs: int
) -> Iterator[list[_Scanned]]:
    """What the headers of each source tell: key, frames and columns of its runs, or what is wrong.

    Args:
      sources: to be read, in processes of their own.
      geometry: that their columns should be of.
      jobs: number of processes, -1 for one a core.
    """
    work = [joblib.delayed(_scan)(source, geometry) for source in sources]
    scans = joblib.Parallel(n_processes(jobs, work), return_as="generator")(work)
    owners: dict[str, str] = {}
    with quietly_closed(scans):
        bar = tqdm.tqdm(scans, "headers", len(work), unit="source", leave=False)
        for source, runs in zip(sources, bar, strict=True):
            yield [_only_once(run, source.name, owners) for run in runs]


def _only_once(run: _Scanned, source: str, owners: dict[str, str]) -> _Scanned:
    """The run; what is wrong, if another has its key."""
    if isinstance(run, Outcome):
        return run
    if run[0] in owners:
        return Outcome(run[0], Path(source), twice(run[0], source, owners[run[0]]))
    owners[run[0]] = source
    return run


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
    """The first thing wrong that the headers of sources tell, None if there is none.

    Args:
      sources, geometry, jobs: as for `scan_sources`.
    """
    if not sources:
        return None
    with contextlib.closing(scan_sources(sources, geometry, jobs)) as scans:
        return next((run for runs in scans for run in runs if isinstance(run, Outcome)), None)


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
