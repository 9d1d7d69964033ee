"""Converts a list of runs to a store, in parallel and resumable: what the converters share.

A run that cannot be converted is skipped with its reason, which is printed and goes to
`STORE/skipped.jsonl`; with a single run, with `strict`, or when no run is left, it is an error.
"""

import collections
import contextlib
import dataclasses
import os
import shutil
import sys
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import tqdm

from data_tools.convert.pseudonyms import Pseudonyms
from data_tools.convert.raw_run import RunFiles, sidecar_tr
from data_tools.convert.skipped import (
    Outcome,
    publish_empty_shard,
    remove_empty_shard,
    skipped_lines,
)
from data_tools.errors import InputError, as_input_errors
from data_tools.spaces.space_map import SpaceMap
from data_tools.store.reader import SKIPPED, Store
from data_tools.store.writer import StoreWriter
from data_tools.timeseries.confounds import frame_figures, read_confounds
from data_tools.timeseries.process_run import Frames, process_run
from data_tools.timeseries.recipe import Recipe, resolve_tr


@dataclasses.dataclass(frozen=True)
class Job:
    """What all runs of a conversion share, beside the runs and the writer.

    Attributes:
      space_map: the map from the runs to the space of the store.
      recipe: how runs become frames.
      dataset: name of the dataset for the run table.
      pseudonyms: what replaces subjects, None to keep them.
    """

    space_map: SpaceMap
    recipe: Recipe
    dataset: str = ""
    pseudonyms: Pseudonyms | None = None

    def public(self, run: RunFiles) -> RunFiles:
        """The run as the store shall know it."""
        return self.pseudonyms.run(run) if self.pseudonyms else run

    def shown(self, message: str, run: RunFiles) -> str:
        """A message about a run as others may read it."""
        return self.pseudonyms.scrub(message, run) if self.pseudonyms else message

    def times(self, runs: Sequence[RunFiles]) -> collections.Counter[str]:
        """How many runs there are of each key."""
        return collections.Counter(self.public(run).key for run in runs)

    def shard(self, runs: Sequence[RunFiles], part: int, parts: int) -> list[RunFiles]:
        """The runs part, part + parts, part + 2 parts, ... in key order."""
        return sorted(runs, key=lambda run: (self.public(run).key, str(run.path)))[part::parts]


def convert(
    runs: Sequence[RunFiles],
    output: str | os.PathLike,
    job: Job,
    *,
    provenance: dict[str, Any] | None = None,
    restricted: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
    jobs: int = 1,
    overwrite: bool = False,
    strict: bool = False,
) -> tuple[Store | None, list[Outcome]]:
    """Converts runs to a store.

    Args:
      runs: what to convert. Of runs with one key none is converted, as nobody knows which is meant.
      output: where the store shall appear.
      job: what they share.
      provenance: what `store.json` says of the sources.
      restricted: fields of the run table that reports, logs and models must not show.
      shard: (i, n) converts only part i of n, see `Job.shard`; `merge` joins the n stores.
      jobs: number of processes, -1 for one a core; the store does not depend on it.
      overwrite: whether an earlier store at `output` may be replaced.
      strict: stop at the first run that cannot be converted, and leave nothing behind.

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
    remove_empty_shard(output)
    tr = job.recipe.target_tr or _own_tr(runs, job)
    root = _common_directory(runs)
    times = job.times(runs)
    n_all, runs = len(runs), job.shard(runs, *shard)
    if shard[1] > 1:
        provenance = (provenance or {}) | {"shard": list(shard)}
    with StoreWriter(
        output,
        job.space_map.geometry,
        tr=tr,
        preprocessing=job.recipe.describe(),
        provenance=provenance or {},
        restricted=restricted,
        overwrite=overwrite,
    ) as writer:
        # Runs of another job that was killed here would slip into this store.
        begun = writer.begun()
        strangers = sorted(
            begun.keys() - {key for run in runs if times[key := job.public(run).key] == 1}
        )
        if strangers:
            raise InputError(
                f"{partial} was begun with other runs, such as {strangers[0]}: delete it to start "
                "over, or give the inputs that it was begun with."
            )
        skipped = []
        for outcome in _outcomes(runs, times, begun, job, writer, jobs):
            if outcome.remark:
                tqdm.tqdm.write(f"{outcome.key}: {outcome.remark}", file=sys.stderr)
            if outcome.reason:
                skipped.append(outcome)
                if strict or n_all == 1:
                    break
                tqdm.tqdm.write(f"skipped {outcome.key}: {outcome.reason}", file=sys.stderr)
        skipped.sort(key=lambda outcome: (outcome.key, str(outcome.path)))
        lines = skipped_lines(skipped, root, with_paths=job.pseudonyms is None)
        nothing = len(skipped) == len(runs)
        failed = bool(skipped) and (strict or (nothing and shard[1] == 1))
        store = None if failed or nothing else finish_store(writer, lines)
    if failed:
        # What an earlier, killed job has finished is not ours to throw away.
        if strict and not resumed:
            shutil.rmtree(partial, ignore_errors=True)
        raise InputError(_failure(skipped, len(runs)))
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
    """Converts the runs in processes of their own and tells of each as it is done.

    Those whose key is there several `times`, in other shards too, are skipped. What an earlier job
    has `begun` is kept where the run table would say the same.
    """
    work = []
    for run in runs:
        key = job.public(run).key
        try:
            check_single(key, times[key])
        except InputError as error:
            yield Outcome(key, run.path, str(error))
        else:
            kept = _says_the_same(begun.get(key), job, run)
            work.append(joblib.delayed(_try_run)(run, job, writer, kept))
    if not work:
        return
    results = joblib.Parallel(n_processes(jobs, work), return_as="generator_unordered")(work)
    with quietly_closed(results):
        yield from tqdm.tqdm(results, "convert", len(work), unit="run")


def check_single(key: str, times: int) -> None:
    """Refuses a run whose key others have too: nobody knows which of them is meant."""
    if times > 1:
        raise InputError(
            f"{times} runs have the name {key}: rename them, or give only one of them."
        )


def n_processes(jobs: int, work: Sequence) -> int:
    """How many processes a list of work keeps busy, `jobs` being what the user allows."""
    if jobs == 0:
        raise InputError("There is no work in 0 processes: give a number of processes, or -1.")
    return max(1, min(joblib.effective_n_jobs(jobs), len(work)))


def _says_the_same(line: dict[str, Any] | None, job: Job, run: RunFiles) -> bool:
    """Whether a line of an earlier job says of a run what this job would."""
    fields = {"dataset": job.dataset} | job.public(run).fields
    return line is not None and all(line.get(name) == value for name, value in fields.items())


def _try_run(run: RunFiles, job: Job, writer: StoreWriter, begun: bool) -> Outcome:
    """Converts one run, in a process of its own, unless an earlier job has."""
    key = job.public(run).key
    try:
        remark = None if begun and writer.has(key) else _add_run(run, job, writer)
    except InputError as error:
        return Outcome(key, run.path, job.shown(str(error), run))
    return Outcome(key, run.path, remark=remark)


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
    public = job.public(run)
    fields = {"dataset": job.dataset} | public.fields
    fields |= {"tr": frames.tr, "source_tr": frames.source_tr}
    qc, remark = frames.qc, None
    if events is not None:
        fields["events"], n_outside = _placed(events, frames, name)
        if n_outside:
            qc = qc | {"events_outside": n_outside}
            remark = f"left out {n_outside} of {len(events)} events, which are outside of the run"
    if confounds is not None:
        fields["confounds"] = frame_figures(confounds)
    writer.add(
        public.key,
        frames.frames,
        mean=frames.mean,
        std=frames.std,
        missing=frames.missing,
        qc=qc,
        **fields,
    )
    return remark


def _placed(
    events: list[dict[str, Any]], frames: Frames, name: str
) -> tuple[list[dict[str, Any]], int]:
    """Events counted from the first frame that was kept, and how many were outside of the scan.

    Of a part of a run, those that begin in it stay.
    """
    inside = [event for event in events if 0 <= event["onset"] < frames.scanned_seconds]
    n_outside = len(events) - len(inside)
    if 2 * n_outside > len(events):
        worst = max((event["onset"] for event in events), key=abs)
        raise InputError(
            f"{name} lasts {frames.scanned_seconds:g} s and {n_outside} of its {len(events)} "
            f"events are outside of it, such as one at {worst:g} s: give the events of this run, "
            "with onsets in seconds."
        )
    first, last = frames.first_second, frames.first_second + len(frames.frames) * frames.tr
    return [
        event | {"onset": round(event["onset"] - first, 6)}
        for event in inside
        if first <= event["onset"] < last
    ], n_outside


@contextlib.contextmanager
def quietly_closed(results: Generator) -> Iterator[None]:
    """Cancels the work that is left when we stop early, without joblib's warning of it."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()


def _own_tr(runs: Sequence[RunFiles], job: Job) -> float:
    """The TR of a store whose runs keep their own: that of the first run that tells."""
    if job.recipe.tr:
        return job.recipe.tr
    for run in runs:
        with contextlib.suppress(InputError), as_input_errors():
            return resolve_tr(run.read_header(run.path).tr, sidecar_tr(run), None, str(run.path))
    first = job.shown(str(runs[0].path), runs[0])
    raise InputError(f"{first} does not say its TR: give it in seconds with --tr.")


def finish_store(writer: StoreWriter, skipped: bytes) -> Store:
    """Lays a store out, with a progress bar, and with the list of what was skipped, if any."""
    with tqdm.tqdm(desc="lay out", unit="frame", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return writer.finish(show, {SKIPPED: skipped} if skipped else {})


def _failure(skipped: list[Outcome], n_runs: int) -> str:
    if n_runs == 1 or len(skipped) < n_runs:
        return skipped[-1].reason
    return f"None of the {n_runs} runs could be converted; the first: {skipped[0].reason}"


def _common_directory(runs: Sequence[RunFiles]) -> Path:
    return Path(os.path.commonpath([run.path.absolute().parent for run in runs]))
