"""Converts a list of runs to a store, in parallel and resumable, for all converters.

A run that cannot be converted is skipped with its reason, which is printed and goes to
`STORE/skipped.jsonl`; with a single run, with `strict`, or when no run is left, it is an error.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.beside import place_events
from data_tools.convert.raw_run import RunFiles, sidecar_tr, unread_sidecars
from data_tools.convert.skipped import (
    Outcome,
    collect_skipped,
    finish_store,
    publish_empty_shard,
    read_empty_shard,
    skipped_lines,
)
from data_tools.errors import InputError, as_input_errors, check_file_name
from data_tools.parallel import in_parallel
from data_tools.spaces.space_map import SpaceMap
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from data_tools.timeseries.confounds import frame_figures, read_confounds
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.recipe import Recipe, resolve_tr


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings that all runs of a conversion share.

    Attributes:
      space_map: the map from the runs to the space of the store.
      recipe: how runs become frames.
      dataset: name of the dataset for the run table.
    """

    space_map: SpaceMap
    recipe: Recipe
    dataset: str = ""


def choose_shard(runs: Sequence[RunFiles], part: int, parts: int) -> list[RunFiles]:
    """The runs part, part + parts, part + 2 parts, ... in key order."""
    return sorted(runs, key=lambda run: (run.key, str(run.path)))[part::parts]


def convert(
    runs: Sequence[RunFiles],
    output: str | os.PathLike,
    job: Job,
    *,
    provenance: dict[str, Any],
    shard: tuple[int, int] = (0, 1),
    jobs: int = 1,
    strict: bool = False,
    **store_settings: Any,
) -> tuple[Store | None, list[Outcome]]:
    """Converts runs to a store.

    Args:
      runs: what to convert. Of runs with one key none is converted, as nobody knows which is meant.
      output: where the store shall appear.
      job: what they share.
      provenance: what `store.json` says of the sources.
      shard: (i, n) converts only part i of n, see `choose_shard`; `merge` joins the n stores.
      jobs: number of processes, -1 for one a core; the store does not depend on it.
      strict: stop at the first run that cannot be converted, and leave nothing behind.
      **store_settings: further arguments of `StoreWriter`: restricted, overwrite.

    Returns:
      The store, and the runs that were skipped, which `OUTPUT/skipped.jsonl` lists too. The store
      is None for a shard without a run that could be converted: then `OUTPUT` has this list alone.

    Raises:
      InputError: no run could be converted, or with `strict` one could not; or a killed job left
        runs at `output` that are not among these.
    """
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial")
    resumed = partial.exists()
    if read_empty_shard(output) is not None:  # of an earlier attempt
        shutil.rmtree(output)
    tr = job.recipe.target_tr or _own_tr(runs, job.recipe)
    root = Path(os.path.commonpath([run.path.absolute().parent for run in runs]))
    times = collections.Counter(run.key for run in runs)
    n_all, runs = len(runs), choose_shard(runs, *shard)
    if shard[1] > 1:
        provenance = provenance | {"shard": list(shard)}
    with StoreWriter(
        output,
        job.space_map.geometry,
        tr=tr,
        preprocessing=job.recipe.describe(),
        provenance=provenance,
        **store_settings,
    ) as writer:
        begun = writer.begun()
        writer.refuse_others(
            begun.keys() - {run.key for run in runs if times[run.key] == 1}, "runs"
        )
        outcomes = _outcomes(runs, times, begun, job, writer, jobs)
        skipped, n_good = collect_skipped(outcomes, stop=strict or n_all == 1)
        lines = skipped_lines(skipped, root)
        failed = bool(skipped) and (strict or (n_good == 0 and shard[1] == 1))
        store = None if failed or n_good == 0 else finish_store(writer, lines)
    if failed:
        # What an earlier, killed job has finished is not ours to throw away.
        if strict and not resumed:
            shutil.rmtree(partial, ignore_errors=True)
        reason = skipped[0].reason
        if len(runs) > 1 and len(skipped) == len(runs):
            reason = f"None of the {len(runs)} runs could be converted; the first: {reason}"
        raise InputError(reason)
    if store is None:
        publish_empty_shard(output, shard, lines)
    return store, skipped


def _outcomes(
    runs: Sequence[RunFiles],
    times: Mapping[str, int],
    begun: Mapping[str, dict[str, Any]],
    job: Job,
    writer: StoreWriter,
    jobs: int,
) -> Iterator[Outcome]:
    """Converts the runs in processes of their own, and yields the outcome of each as it is done.

    Those whose key is there several `times`, in other shards too, are skipped. What an earlier job
    has `begun` is kept where the run table would say the same.
    """
    work = []
    for run in runs:
        try:
            check_single(run.key, times[run.key])
        except InputError as error:
            yield Outcome(run.key, run.shown_path, str(error))
        else:
            line, fields = begun.get(run.key), {"dataset": job.dataset} | run.fields
            kept = line is not None and all(line.get(name) == fields[name] for name in fields)
            work.append(functools.partial(_try_run, run, job, writer, kept))
    yield from in_parallel(work, jobs, "convert", "run")


def check_single(key: str, times: int) -> None:
    """Refuses a run whose key cannot name files, or is that of others: which one is meant?"""
    check_file_name(key, "The run key")
    if times > 1:
        raise InputError(
            f"{times} runs have the name {key}: rename them, or give only one of them."
        )


def _try_run(run: RunFiles, job: Job, writer: StoreWriter, begun: bool) -> Outcome:
    """Converts one run, in a process of its own, unless an earlier job has."""
    try:
        remark = None if begun and writer.has(run.key) else _add_run(run, job, writer)
    except InputError as error:
        return Outcome(run.key, run.shown_path, run.shown(str(error)))
    return Outcome(run.key, run.shown_path, remark=remark and run.shown(remark))


def _add_run(run: RunFiles, job: Job, writer: StoreWriter) -> str | None:
    """Reads a run, takes it through the chain and adds it; returns what the user should know."""
    name = str(run.path)
    with as_input_errors():
        confounds = None if run.confounds is None else read_confounds(run.confounds)
        events = None if run.read_events is None else run.read_events()
        tr = sidecar_tr(run)
    frames = process_run(
        run.read(run.path, **job.space_map.reading),
        job.space_map,
        job.recipe,
        name,
        sidecar_tr=tr,
        confounds=confounds,
    )
    if frames.tr != writer.tr:
        raise InputError(
            f"{name} has a TR of {frames.tr:g} s and the store one of {writer.tr:g} s: give "
            "--target-tr to resample all runs to one."
        )
    fields = {"dataset": job.dataset} | run.fields
    fields |= {"tr": frames.tr, "source_tr": frames.source_tr}
    qc, remark = frames.qc, unread_sidecars(run)
    if events is not None:
        timed = [event for event in events if event["onset"] is not None]
        fields["events"], n_outside = place_events(
            timed,
            frames.scanned_seconds,
            name,
            first=frames.first_second,
            last=frames.first_second + len(frames.frames) * frames.tr,
        )
        lost = {"events_outside": n_outside, "events_without_onset": len(events) - len(timed)}
        qc = qc | {reason: n for reason, n in lost.items() if n}
        if any(lost.values()):
            said = (
                f"left out {sum(lost.values())} of {len(events)} events, which are outside of the "
                "run or have no onset"
            )
            remark = f"{said}; {remark}" if remark else said
    if confounds is not None:
        fields["confounds"] = frame_figures(confounds)
    writer.add(
        run.key,
        frames.frames,
        mean=frames.mean,
        std=frames.std,
        missing=frames.missing,
        qc=qc,
        **fields,
    )
    return remark


def _own_tr(runs: Sequence[RunFiles], recipe: Recipe) -> float:
    """The TR of a store whose runs keep their own: that of the first run that tells."""
    if recipe.tr:
        return recipe.tr
    for run in runs:
        with contextlib.suppress(InputError), as_input_errors():
            return resolve_tr(run.read_header(run.path).tr, sidecar_tr(run), None, str(run.path))
    first = runs[0].shown(str(runs[0].path))
    raise InputError(f"{first} does not say its TR: give it in seconds with --tr.")
