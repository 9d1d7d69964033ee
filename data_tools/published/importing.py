"""Brings published runs into a store, for all importers.

An importer knows a format and gives sources (a tar shard, an Arrow file), each of which yields its
runs; this file lays their columns out as patches and writes them, source by source, in parallel and
resumable. Something wrong in a source stops the import, unless what cannot be read is to be
skipped: where headers cost little to read, before anything is written. Sources that were done stay
in `STORE.partial` and are not read again.
Letters in array names: T frames, C columns, N cortical patches, P pixels of a patch.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.beside import place_events
from data_tools.convert.skipped import Outcome, collect_skipped, finish_store, skipped_lines
from data_tools.errors import InputError, as_input_errors, check_file_name
from data_tools.parallel import in_parallel
from data_tools.published.source import WRONG_TR, PublishedRun, Source
from data_tools.spaces.geometry import Geometry
from data_tools.store.checks import check_onsets
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from data_tools.timeseries.recipe import check_tr
from data_tools.timeseries.resampling import resample
from data_tools.timeseries.zscore import to_float16
from data_tools.wording import count


@dataclasses.dataclass(frozen=True)
class ImportJob:
    """What all sources of an import share.

    Attributes:
      geometry: of their columns.
      dataset: name for the run table, where a run does not tell its own.
      missing: 'record' notes columns that are 0 in every frame as missing, as z-scoring leaves
        them where there were no data; 'ignore' takes these zeros for data.
      target_tr: seconds between the frames of the store; 0 keeps that of the runs.
      kind: how to resample to it, see `resampling.resample`.
      skip_damaged: whether what cannot be read is left out rather than an error.
      has_scale: whether runs must have a scale, or must not; None takes both.
    """

    geometry: Geometry
    dataset: str = ""
    missing: str = "record"
    target_tr: float = 0.0
    kind: str = "linear"
    skip_damaged: bool = False
    has_scale: bool | None = None

    def describe(self) -> dict[str, Any]:
        """The settings as `store.json` has them."""
        kind = {"kind": self.kind} if self.target_tr else {}
        return {"missing": self.missing, "target_tr": self.target_tr or None} | kind


def import_sources(
    sources: Sequence[Source],
    output: Path,
    job: ImportJob,
    *,
    tr: float,
    preprocessing: dict[str, Any],
    jobs: int = 1,
    **store_settings: Any,
) -> tuple[Store, list[Outcome]]:
    """Writes a store of all runs of the sources.

    Args:
      sources: what to import.
      output: where the store shall appear.
      job: what they share.
      tr: seconds between the frames of the runs, as the first of them says.
      preprocessing: how the published frames were made, for `store.json`.
      jobs: number of processes, -1 for one a core; the store does not depend on it.
      **store_settings: further arguments of `StoreWriter`: provenance, restricted, overwrite.

    Returns:
      The store, and what was skipped, which `OUTPUT/skipped.jsonl` lists too.

    Raises:
      InputError: a source or a run cannot be read, two runs have one key, runs differ in TR, or
        nothing is left. Without a source that is whole nothing stays at `output`.
    """
    names = [source.name for source in sources]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{again[0]} is given twice, or two files have this name: give every file once, and "
            "import those of one name apart."
        )
    partial = output.with_name(f"{output.name}.partial")
    resumed = partial.exists()
    with StoreWriter(
        output,
        job.geometry,
        tr=job.target_tr or tr,
        preprocessing=preprocessing | job.describe(),
        **store_settings,
    ) as writer:
        begun = {line.get("source", "") for line in writer.begun().values()}
        writer.refuse_others(begun - set(names), "inputs")
        skipped, n_done = [], 0
        if not job.skip_damaged:
            left = [x for x in sources if x.is_local and not writer.has_source(x.name)]
            skipped = list(filter(None, [first_problem(left, job.geometry, jobs)]))
        if not skipped:
            work = [functools.partial(_import_source, source, job, writer) for source in sources]
            with contextlib.closing(in_parallel(work, jobs, "import", "source")) as done:
                outcomes = (outcome for some in done for outcome in some)
                skipped, n_done = collect_skipped(outcomes, stop=not job.skip_damaged)
        if writer.begun() and (job.skip_damaged or not skipped):
            return finish_store(writer, skipped_lines(skipped)), skipped
        if not resumed and not n_done:
            writer.discard()
    if skipped and not job.skip_damaged:
        raise InputError(skipped[0].reason)
    first = f"; the first: {skipped[0].reason}" if skipped else ": check the inputs."
    raise InputError(f"No run could be imported{first}")


def _import_source(source: Source, job: ImportJob, writer: StoreWriter) -> list[Outcome]:
    """Imports one source, in a process of its own, unless an earlier job has.

    Returns:
      An outcome for each problem, or one of the source where all went well.
    """
    done = Outcome(source.name, Path(source.name))
    if writer.has_source(source.name):
        return [done]
    keys, problems, lost = [], [], {}
    try:
        with as_input_errors():
            for run in source.read():
                if isinstance(run, PublishedRun):
                    run = _try_add(run, keys, lost, source, job, writer)
                if run is not None:
                    problems.append(run)
                    if not job.skip_damaged:
                        return problems
    except InputError as error:
        problems.append(dataclasses.replace(done, reason=str(error)))
    if not problems:
        writer.finish_source(source.name, keys)
        problems = [done]
    if lost:
        remark = (
            f"left out {count(sum(lost.values()), 'event')}, without an onset or outside of their "
            f"run, such as of {min(lost)}"
        )
        problems[0] = dataclasses.replace(problems[0], remark=remark)
    return problems


def _try_add(
    run: PublishedRun,
    keys: list[str],
    lost: dict[str, int],
    source: Source,
    job: ImportJob,
    writer: StoreWriter,
) -> Outcome | None:
    """Adds a run, its key and the number of events left out; why not, if it is no good."""
    try:
        if run.key in keys:
            raise InputError(twice(run.key, source.name, source.name))
        if n_lost := _add(run, source, job, writer):
            lost[run.key] = n_lost
    except InputError as error:
        return Outcome(run.key, Path(source.name), str(error))
    keys.append(run.key)
    return None


def _add(run: PublishedRun, source: Source, job: ImportJob, writer: StoreWriter) -> int:
    """Adds a run, unless this source has added it in an earlier, killed job.

    Returns:
      The number of events that were left out.
    """
    check_file_name(run.key, f"In {source.name} the run key")
    name = f"Run {run.key} of {source.name}"
    begun = writer.line(run.key)
    if begun is not None and begun.get("source") != source.name:
        raise InputError(twice(run.key, source.name, str(begun.get("source"))))
    if begun is not None and writer.has(run.key):
        return 0
    check_tr(run.tr, f"The TR of {name}", WRONG_TR)
    _check_columns(run, job.geometry, name)
    if job.has_scale not in (None, run.mean_C is not None):
        raise InputError(
            f"{name} {'lacks' if job.has_scale else 'has'} a mean and a standard deviation, unlike "
            "the first run: import shards of one form at a time."
        )
    bold, tr = run.bold_TxC, run.tr
    nan = np.isnan(bold[0])
    if nan.any():
        # z-scoring makes NaN of a constant column: it has no data.
        nan[nan] = np.isnan(bold[:, nan]).all(0)
        bold = np.where(nan, 0, bold)
    empty = ~bold.any(0) if run.missing_C is None else run.missing_C | nan
    if empty.all():
        raise InputError(f"{name} is zero everywhere: leave it out.")
    if job.target_tr and job.target_tr != tr:
        series = resample(bold.astype(np.float32), tr, job.target_tr, job.kind)
        bold, tr = to_float16(series, name), job.target_tr
    if abs(tr - writer.tr) > 1e-6 * writer.tr:
        raise InputError(
            f"{name} has a TR of {tr:g} s and the store one of {writer.tr:g} s: give --target-tr "
            "to resample all runs to one."
        )
    fields, n_lost = {"dataset": job.dataset} | run.fields, 0
    if run.events is not None:
        fields["events"], n_lost = _placed(run, name)
        if n_lost:
            fields["qc"] = (fields.get("qc") or {}) | {"events_outside": n_lost}
    to_patches, missing = job.geometry.from_columns, None
    if job.missing == "record" and empty.any():
        missing = np.flatnonzero(to_patches(empty))
    writer.add(
        run.key,
        to_patches(bold),
        mean=None if run.mean_C is None else to_patches(np.asarray(run.mean_C, np.float32)),
        std=None if run.std_C is None else to_patches(np.asarray(run.std_C, np.float32)),
        missing=missing,
        **fields | {"tr": tr, "source": source.name},
    )
    return n_lost


def _placed(run: PublishedRun, name: str) -> tuple[list[dict[str, Any]], int]:
    """The events that begin in a run, as they were published, and how many others there are."""
    events = [event for event in run.events if event.get("onset", "missing") is not None]
    check_onsets(events, name)
    seconds = len(run.bold_TxC) * run.tr
    place_events(events, seconds, name)  # most of them must be of this run
    inside = [event for event in events if 0 <= event["onset"] < seconds]
    return inside, len(run.events) - len(inside)


def _check_columns(run: PublishedRun, geometry: Geometry, name: str) -> None:
    """Refuses a run whose arrays are not of the columns of the geometry."""
    if run.mask_HxW is not None and not np.array_equal(run.mask_HxW, geometry.mask):
        raise InputError(
            f"{name} has another mask than the space '{geometry.space}' of the store: import "
            "shards of one mask together, or give the --geometry that they have."
        )
    for what, array in (("bold", run.bold_TxC), ("mean", run.mean_C), ("std", run.std_C)):
        if array is None:
            continue
        if array.ndim != (2 if what == "bold" else 1) or not len(array):
            raise InputError(f"{name} has a {what} of the shape {array.shape}: get it again.")
        if array.shape[-1] != geometry.width:
            raise InputError(wrong_width(name, what, array.shape[-1], geometry))


# Key, frames and columns of a run, or what is wrong with it.
_Scanned = tuple[str, int, int] | Outcome


def scan_sources(sources: Sequence[Source], geometry: Geometry, jobs: int) -> Iterator[_Scanned]:
    """The headers of the runs of sources: key, frames and columns, or what is wrong.

    Sources are read in `jobs` processes; their columns should be of the geometry.
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
                if not isinstance(run, Outcome):
                    key, _, width = run
                    try:
                        check_file_name(key, f"In {source.name} the run key")
                        if width != geometry.width:
                            name = f"Run {key} of {source.name}"
                            raise InputError(wrong_width(name, "bold", width, geometry))
                    except InputError as error:
                        run = Outcome(key, place, str(error))
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
