"""Versions of one run side by side, and concatenations of runs beside them.

Pipelines leave a run denoised and smoothed, or in two resolutions, in one folder: the user chooses.
Some put all runs of a task into one more file: these frames must not be in a store twice.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases.bids_files import compared_entities
from data_tools.errors import InputError, unknown
from data_tools.wording import count

# Entities that tell versions of one run apart rather than runs; the first have flags.
FLAGS = ("desc", "res", "den")
VERSION_ENTITIES = (*FLAGS, "space")
# Entities of runs that their concatenation lacks.
_JOINED = frozenset({"run", "dir"})


def choose_versions(
    runs: Sequence[RunFiles], wanted: Mapping[str, str | None]
) -> tuple[list[RunFiles], list[str]]:
    """One version of each run, and remarks on what was left out.

    Args:
      runs: in one space.
      wanted: a value for entities of FLAGS; "" is for runs without the entity, None takes all.

    Raises:
      InputError: no run has a wanted value, or runs are there in several versions.
    """
    remarks = []
    for name, value in wanted.items():
        kept = [run for run in runs if value in (None, _entities(run).get(name, ""))]
        if not kept:
            raise unknown(f"No run has --{name}={value}", _values(runs, name))
        if len(kept) < len(runs):
            left_out = count(len(runs) - len(kept), "run")
            remarks.append(f"Left out, as they are not of --{name}={value}: {left_out}.")
        runs = kept
    _check_versions(runs)
    kept = _without_concatenations(runs)
    if len(kept) < len(runs):
        left_out = count(len(runs) - len(kept), "run")
        remarks.append(f"Left out, as they are other runs of the tree joined: {left_out}.")
    for name in FLAGS:
        if len(values := _values(kept, name)) > 1:
            remarks.append(f"NOTE: runs differ in {name}: {', '.join(values)}. See --{name}.")
    return kept, remarks


def _check_versions(runs: Sequence[RunFiles]) -> None:
    """Refuses runs that are there in several versions, and names the entities that differ."""
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run.identity].append(run)
    several = [
        group
        for group in groups.values()
        if any(len(_values(group, name)) > 1 for name in VERSION_ENTITIES)
    ]
    if not several:
        return
    differing = {
        name: sorted({value for group in several for value in _values(group, name)})
        for name in VERSION_ENTITIES
        if any(len(_values(group, name)) > 1 for group in several)
    }
    what = " and ".join(f"{name} ({', '.join(values)})" for name, values in differing.items())
    one = _entities(several[0][-1])
    flags = [f"--{name}={one.get(name, '')}" for name in differing if name in FLAGS]
    raise InputError(
        f"Of {count(len(several), 'run')} there are several versions, which differ in {what}: "
        "choose one, such as "
        f"{' '.join(flags) or 'by a pattern for --input'}."
    )


def _without_concatenations(runs: Sequence[RunFiles]) -> list[RunFiles]:
    """Runs without those that are others joined; what may be one, by name alone, has a fault."""
    entities = [
        {k: v for k, v in _entities(run).items() if k not in VERSION_ENTITIES} for run in runs
    ]
    families = collections.defaultdict(list)
    for run, names in zip(runs, entities, strict=True):
        families[_shared(names)].append((names, run))
    kept = []
    for run, names in zip(runs, entities, strict=True):
        longer = [(x, other) for x, other in families[_shared(names)] if names.items() < x.items()]
        if not ("sub" in names and longer):
            kept.append(run)
            continue
        n_frames, parts = _n_frames(run), [_n_frames(other) for _, other in longer]
        # A run without a number beside run-2 may be the first; beside run-1 it is a copy.
        if n_frames == sum(parts) and (len(parts) > 1 or longer[0][0].get("run") == "1"):
            continue
        if len(parts) > 1 and n_frames > max(parts):
            fault = (
                f"{run.path} has the name of {longer[0][1].path.name} without its number, and more "
                "frames than any such run: it seems to be several runs joined. Give either it or "
                "these runs."
            )
            run = dataclasses.replace(run, fault=run.fault or fault)
        kept.append(run)
    return kept


def _shared(entities: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in entities.items() if item[0] not in _JOINED)


def _n_frames(run: RunFiles) -> int:
    """Frames of a run as its header says, 0 where it cannot be read: converting it says why."""
    with contextlib.suppress(InputError):
        return run.read_header(run.path).n_frames
    return 0


def _entities(run: RunFiles) -> dict[str, str]:
    return compared_entities(run.path.name)


def _values(runs: Sequence[RunFiles], name: str) -> list[str]:
    """The values of an entity in the names of runs, sorted."""
    return sorted({_entities(run).get(name, "(none)") for run in runs})
