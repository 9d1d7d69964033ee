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

from data_tools.convert.beside import place_events, read_beside, read_sidecar_tr
from data_tools.convert.raw_run import RunFiles
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
from data_tools.store.checks import TargetExistsError
from data_tools.store.reader import Store
from data_tools.store.writer import STORE_SIZES, StoreWriter, describe_store
from data_tools.timeseries.confounds import check_patterns, frame_figures
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
    restricted: Sequence[str] = (),
    overwrite: bool = False,
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
      restricted, overwrite: see `StoreWriter`. Without overwrite, a store that the same call has
        made before is returned as it is, unless a file of a run has changed since.

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
    tr, times = check_runs(runs, job.recipe)
    root = Path(os.path.commonpath([run.path.absolute().parent for run in runs]))
    n_all, runs = len(runs), choose_shard(runs, *shard)
    if shard[1] > 1:
        provenance = provenance | {"shard": list(shard)}
    described = {
        "geometry": job.space_map.geometry,
        "tr": tr,
        "preprocessing": job.recipe.describe(),
        "provenance": provenance,
        "restricted": restricted,
    }
    try:
        writer = StoreWriter(output, **described, overwrite=overwrite)
    except TargetExistsError:
        if (store := _made_before(output, runs, job, describe_store(**described))) is None:
            raise
        print(f"{output} is there already, made from these runs with these settings.")
        return store, [Outcome(x["key"], x.get("path"), x.get("reason")) for x in store.skipped()]
    with writer:
        begun = writer.begun()
        writer.refuse_others(
            begun.keys() - {run.key for run in runs if times[run.identity] == 1}, "runs"
        )
        outcomes = _outcomes(runs, times, begun, job, writer, jobs)
        skipped, n_good = collect_skipped(outcomes, stop=strict or n_all == 1)
        lines = skipped_lines(skipped, root)
        reason = failure(skipped, n_good, strict, shard)
        # What an earlier, killed job has finished is not ours to throw away.
        if reason and strict and not resumed:
            writer.discard()
        store = None if reason or n_good == 0 else finish_store(writer, lines)
    if reason:
        raise InputError(reason)
    if store is None:
        publish_empty_shard(output, shard, lines)
    return store, skipped


def _made_before(
    output: Path, runs: Sequence[RunFiles], job: Job, meta: Mapping[str, Any]
) -> Store | None:
    """The store at `output`, if it says that it was made so, from these runs as they are now."""
    if not (output / "store.json").is_file():
        return None
    store = Store(output)
    found = {name: value for name, value in store.meta.items() if name not in STORE_SIZES}
    lines = {line["key"]: line for line in store.runs}
    made = lines.keys() | {line["key"] for line in store.skipped()}
    if found != meta or made != {run.key for run in runs}:
        return None
    since = (output / "store.json").stat().st_mtime_ns
    for run in runs:
        line, fields = lines.get(run.key), {"dataset": job.dataset} | run.fields
        if line is not None and any(line.get(name) != fields[name] for name in fields):
            return None
        for file in run.files:
            # A copy may keep the time of its original; the time of its own change it cannot.
            if file.exists() and max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) > since:
                return None
    return store


def check_runs(runs: Sequence[RunFiles], recipe: Recipe) -> tuple[float, collections.Counter[str]]:
    """The TR of the store, and how often each `RunFiles.identity` is there.

    Raises:
      InputError: no run says its TR, or a pattern of confounds matches in no run.
    """
    check_patterns(recipe.confounds, [run.confounds for run in runs if run.confounds])
    tr = recipe.target_tr or _own_tr(runs, recipe)
    return tr, collections.Counter(run.identity for run in runs)


def failure(
    skipped: Sequence[Outcome], n_good: int, strict: bool, shard: tuple[int, int]
) -> str | None:
    """Why the runs that were skipped make the conversion fail, None if they do not."""
    if not skipped or not (strict or (n_good == 0 and shard[1] == 1)):
        return None
    reason = skipped[0].reason
    if n_good == 0 and len(skipped) > 1:
        return f"None of the {len(skipped)} runs could be converted; the first: {reason}"
    return reason


def _outcomes(
    runs: Sequence[RunFiles],
    times: Mapping[str, int],
    begun: Mapping[str, dict[str, Any]],
    job: Job,
    writer: StoreWriter,
    jobs: int,
) -> Iterator[Outcome]:
    """Converts the runs in processes of their own, and yields the outcome of each as it is done.

    Those that are there several `times`, in other shards too, are skipped. What an earlier job
    has `begun` is kept where the run table would say the same.
    """
    work = []
    for run in runs:
        try:
            check_single(run.key, times[run.identity])
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
    beside = read_beside(run)
    series = run.read(run.path, **job.space_map.reading)
    beside.check_frames(series.n_frames, run)
    frames = process_run(
        series,
        job.space_map,
        job.recipe,
        name,
        sidecar_tr=beside.tr,
        confounds=beside.confounds,
    )
    del series  # as large as all the rest
    check_store_tr(frames.tr, writer.tr, name)
    fields = {"dataset": job.dataset} | run.fields
    fields |= {"tr": frames.tr, "source_tr": frames.source_tr}
    qc, remarks = frames.qc, [beside.remark]
    if beside.start:
        fields["start_time"] = beside.start
    if beside.events is not None:
        fields["events"], n_outside = place_events(
            beside.events,
            frames.scanned_seconds,
            name,
            first=frames.first_second,
            last=frames.first_second + len(frames.frames) * frames.tr,
            start=beside.start,
        )
        lost = {"events_outside": n_outside, "events_without_onset": beside.n_untimed}
        qc = qc | {reason: n for reason, n in lost.items() if n}
        if n_lost := sum(lost.values()):
            remarks.append(
                f"left out {n_lost} of {len(beside.events) + beside.n_untimed} events, which are "
                "outside of the run or have no onset"
            )
    if beside.confounds is not None:
        fields["confounds"] = frame_figures(beside.confounds)
    writer.add(
        run.key,
        frames.frames,
        mean=frames.mean,
        std=frames.std,
        missing=frames.missing,
        qc=qc,
        **fields,
    )
    return "; ".join(filter(None, remarks)) or None


def check_store_tr(tr: float, store_tr: float, name: str) -> None:
    """Refuses a run of another TR than that of the store."""
    if tr != store_tr:
        raise InputError(
            f"{name} has a TR of {tr:g} s and the store one of {store_tr:g} s: give --target-tr to "
            "resample all runs to one."
        )


def _own_tr(runs: Sequence[RunFiles], recipe: Recipe) -> float:
    """The TR of a store whose runs keep their own: that of the first run that tells."""
    if recipe.tr:
        return recipe.tr
    for run in runs:
        with contextlib.suppress(InputError), as_input_errors():
            header, name = run.read_header(run.path), str(run.path)
            return resolve_tr(header.tr, read_sidecar_tr(run), None, name)
    first = runs[0].shown(str(runs[0].path))
    raise InputError(f"{first} does not say its TR: give it in seconds with --tr.")
