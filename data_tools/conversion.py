"""Converts a list of runs to a store, in parallel and resumable: what the converters share.

A run that cannot be converted is skipped with its reason, which is printed and goes to
`STORE/skipped.jsonl`; with a single run, with `strict`, or when no run is left, it is an error.
"""

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import tqdm

from data_tools.chain import Frames, process_run
from data_tools.confounds import frame_figures, read_confounds
from data_tools.errors import InputError
from data_tools.flatmap import FlatMap
from data_tools.privacy import Pseudonyms
from data_tools.recipe import Recipe, resolve_tr
from data_tools.run_files import RunFiles, sidecar_tr
from data_tools.store import SKIPPED, Store
from data_tools.store_writer import StoreWriter


@dataclasses.dataclass(frozen=True)
class Job:
    """What all runs of a conversion share, beside the runs and the writer.

    Attributes:
      flat_map: the map of the surfaces that the runs are on.
      recipe: how runs become frames.
      dataset: name of the dataset for the run table.
      pseudonyms: what replaces subjects, None to keep them.
    """

    flat_map: FlatMap
    recipe: Recipe
    dataset: str = ""
    pseudonyms: Pseudonyms | None = None

    def public(self, run: RunFiles) -> RunFiles:
        """The run as the store shall know it."""
        return self.pseudonyms.run(run) if self.pseudonyms else run

    def shown(self, message: str, run: RunFiles) -> str:
        """A message about a run as others may read it."""
        return self.pseudonyms.scrub(message, run) if self.pseudonyms else message

    def shard(self, runs: Sequence[RunFiles], part: int, parts: int) -> list[RunFiles]:
        """The runs part, part + parts, part + 2 parts, ... in key order."""
        return sorted(runs, key=lambda run: (self.public(run).key, str(run.path)))[part::parts]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: converted, perhaps with a remark, or skipped for a reason."""

    key: str
    path: Path
    reason: str | None = None
    remark: str | None = None


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
) -> tuple[Store, list[Outcome]]:
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
      The store, and the runs that were skipped, which `OUTPUT/skipped.jsonl` lists too.

    Raises:
      InputError: no run could be converted, or with `strict` one could not; or a killed job left
        runs at `output` that are not among these.
    """
    if jobs == 0:
        raise InputError("There is no work in 0 processes: give a number of processes, or -1.")
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial")
    resumed = partial.exists()
    tr = job.recipe.target_tr or _own_tr(runs, job.recipe)
    root = _common_directory(runs)
    times = collections.Counter(job.public(run).key for run in runs)
    n_all, runs = len(runs), job.shard(runs, *shard)
    if shard[1] > 1:
        provenance = (provenance or {}) | {"shard": list(shard)}
    with StoreWriter(
        output,
        job.flat_map.geometry,
        tr=tr,
        preprocessing=job.recipe.describe(),
        provenance=provenance or {},
        restricted=restricted,
        overwrite=overwrite,
    ) as writer:
        # Runs of another job that was killed here would slip into this store.
        strangers = sorted(writer.begun().keys() - {job.public(run).key for run in runs})
        if strangers:
            raise InputError(
                f"{partial} was begun with other runs, such as {strangers[0]}: delete it to start "
                "over, or give the inputs that it was begun with."
            )
        skipped = []
        for outcome in _outcomes(runs, times, job, writer, jobs):
            if outcome.remark:
                tqdm.tqdm.write(f"{outcome.key}: {outcome.remark}", file=sys.stderr)
            if outcome.reason:
                skipped.append(outcome)
                if strict or n_all == 1:
                    break
                tqdm.tqdm.write(f"skipped {outcome.key}: {outcome.reason}", file=sys.stderr)
        failed = bool(skipped) and (strict or len(skipped) == len(runs))
        skipped.sort(key=lambda outcome: (outcome.key, str(outcome.path)))
        store = None if failed else _finish(writer, _skipped_lines(skipped, root, job))
    if failed:
        # What an earlier, killed job has finished is not ours to throw away.
        if strict and not resumed:
            shutil.rmtree(partial, ignore_errors=True)
        raise InputError(_failure(skipped, len(runs)))
    return store, skipped


def _outcomes(
    runs: Sequence[RunFiles], times: Mapping[str, int], job: Job, writer: StoreWriter, jobs: int
) -> Iterator[Outcome]:
    """Converts the runs in processes of their own and tells of each as it is done.

    Those whose key is there several `times`, in other shards too, are skipped.
    """
    single = [run for run in runs if times[job.public(run).key] == 1]
    for run in runs:
        if times[key := job.public(run).key] > 1:
            others = f"{times[key]} runs have the name {key}: give only one of them."
            yield Outcome(key, run.path, others)
    if not single:
        return
    work = [joblib.delayed(_try_run)(run, job, writer) for run in single]
    results = joblib.Parallel(n_processes(jobs, work), return_as="generator_unordered")(work)
    with _quietly_closed(results):
        yield from tqdm.tqdm(results, "convert", len(single), unit="run")


def n_processes(jobs: int, work: Sequence) -> int:
    """How many processes a list of work keeps busy, `jobs` being what the user allows."""
    return min(joblib.effective_n_jobs(jobs), len(work))


def _try_run(run: RunFiles, job: Job, writer: StoreWriter) -> Outcome:
    """Converts one run, in a process of its own, unless an earlier job has."""
    key = job.public(run).key
    try:
        remark = None if writer.has(key) else _add_run(run, job, writer)
    except InputError as error:
        return Outcome(key, run.path, job.shown(str(error), run))
    return Outcome(key, run.path, remark=remark)


def _add_run(run: RunFiles, job: Job, writer: StoreWriter) -> str | None:
    """Reads a run, takes it through the chain and adds it; returns what the user should know."""
    name = str(run.path)
    confounds = None if run.confounds is None else read_confounds(run.confounds)
    events = None if run.read_events is None else run.read_events()
    frames = process_run(
        run.read(run.path),
        job.flat_map,
        job.recipe,
        name,
        sidecar_tr=sidecar_tr(run),
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
    remark = None
    if events is not None:
        fields["events"], n_outside = _placed(events, frames, name)
        if n_outside:
            remark = f"left out {n_outside} of {len(events)} events, which are outside of the run"
    if confounds is not None:
        fields["confounds"] = frame_figures(confounds)
    writer.add(
        public.key,
        frames.frames,
        mean=frames.mean,
        std=frames.std,
        missing=frames.missing,
        qc=frames.qc,
        **fields,
    )
    return remark


def _placed(
    events: list[dict[str, Any]], frames: Frames, name: str
) -> tuple[list[dict[str, Any]], int]:
    """Events counted from the first frame that was kept, and how many were outside of the scan.

    Of a part of a run, those that begin in it stay.

    Raises:
      InputError: most events are outside of the scan: they are of another run, or in other units.
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
def _quietly_closed(results: Generator) -> Iterator[None]:
    """Cancels the work that is left when we stop early, without joblib's warning of it."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()


def _own_tr(runs: Sequence[RunFiles], recipe: Recipe) -> float:
    """The TR of a store whose runs keep their own: that of the first run that tells."""
    if recipe.tr:
        return recipe.tr
    for run in runs:
        with contextlib.suppress(InputError):
            return resolve_tr(run.read_header(run.path).tr, sidecar_tr(run), None, str(run.path))
    raise InputError(f"{runs[0].path} does not say its TR: give it in seconds with --tr.")


def _finish(writer: StoreWriter, skipped: bytes) -> Store:
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


def _skipped_lines(skipped: list[Outcome], root: Path, job: Job) -> bytes:
    """`skipped.jsonl`: key, path below the directory that holds all runs, and reason."""
    lines = (
        {
            "key": outcome.key,
            "path": None if job.pseudonyms else str(outcome.path.absolute().relative_to(root)),
            "reason": outcome.reason.replace(f"{root}{os.sep}", ""),
        }
        for outcome in skipped
    )
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
