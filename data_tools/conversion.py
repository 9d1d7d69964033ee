"""Converts a list of runs to a store, in parallel and resumable: what the converters share.

A run that cannot be converted is skipped with its reason, which is printed and goes to
`STORE.skipped.jsonl` beside the store; with a single run, with `strict`, or when no run is left, it
is an error.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import tqdm

from data_tools.bids import RunFiles, read_events
from data_tools.chain import Frames, Recipe, process_run
from data_tools.errors import InputError
from data_tools.files import write_bytes
from data_tools.flatmap import FlatMap
from data_tools.store import Store
from data_tools.store_writer import StoreWriter
from data_tools.surfaces import read_surface_run


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: converted, or skipped for a reason."""

    key: str
    path: Path
    reason: str | None = None


def convert(
    runs: Sequence[RunFiles],
    output: str | os.PathLike,
    flat_map: FlatMap,
    recipe: Recipe,
    *,
    dataset: str = "",
    provenance: dict[str, Any] | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    strict: bool = False,
) -> tuple[Store, list[Outcome]]:
    """Converts runs to a store.

    Args:
      runs: what to convert.
      output: where the store shall appear.
      flat_map: the map of the surfaces that the runs are on.
      recipe: how runs become frames.
      dataset: name of the dataset for the run table.
      provenance: what `store.json` says of the sources.
      jobs: number of processes, -1 for one a core; the store does not depend on it.
      overwrite: whether an earlier store at `output` may be replaced.
      strict: stop at the first run that cannot be converted, and leave nothing behind.

    Returns:
      The store, and the runs that were skipped. They are also listed in `OUTPUT.skipped.jsonl`.

    Raises:
      InputError: no run could be converted, or with `strict` one could not; or a killed job left
        runs at `output` that are not among these.
    """
    if jobs == 0:
        raise InputError("There is no work in 0 processes: give a number of processes, or -1.")
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial")
    resumed = partial.exists()
    skipped = []
    with StoreWriter(
        output,
        flat_map.geometry,
        tr=recipe.target_tr or _own_tr(runs, recipe),
        preprocessing=recipe.describe(),
        provenance=provenance or {},
        overwrite=overwrite,
    ) as writer:
        # Runs of another job that was killed here would slip into this store.
        strangers = sorted(writer.begun().keys() - {run.key for run in runs})
        if strangers:
            raise InputError(
                f"{partial} was begun with other runs, such as {strangers[0]}: delete it to start "
                "over, or give the inputs that it was begun with."
            )
        work = (joblib.delayed(_try_run)(run, flat_map, recipe, writer, dataset) for run in runs)
        n_jobs = min(joblib.effective_n_jobs(jobs), len(runs))
        results = joblib.Parallel(n_jobs, return_as="generator_unordered")(work)
        with _quietly_closed(results):
            for outcome in tqdm.tqdm(results, "convert", len(runs), unit="run"):
                if outcome.reason is None:
                    continue
                skipped.append(outcome)
                if strict or len(runs) == 1:
                    break
                tqdm.tqdm.write(f"skipped {outcome.key}: {outcome.reason}", file=sys.stderr)
        failed = bool(skipped) and (strict or len(skipped) == len(runs))
        store = None if failed else _finish(writer)
    if failed:
        # What an earlier, killed job has finished is not ours to throw away.
        if strict and not resumed:
            shutil.rmtree(partial, ignore_errors=True)
        raise InputError(_failure(skipped, len(runs)))
    skipped.sort(key=lambda outcome: outcome.key)
    _write_skipped(skipped_path(output), skipped)
    return store, skipped


def skipped_path(output: str | os.PathLike) -> Path:
    """The list of skipped runs beside a store: one JSON object a line with key, path, reason."""
    return Path(output).with_name(f"{Path(output).name}.skipped.jsonl")


def _try_run(
    run: RunFiles, flat_map: FlatMap, recipe: Recipe, writer: StoreWriter, dataset: str
) -> Outcome:
    """Converts one run, in a process of its own, unless an earlier job has."""
    try:
        if not writer.has(run.key):
            _add_run(run, flat_map, recipe, writer, dataset)
    except InputError as error:
        return Outcome(run.key, run.path, str(error))
    return Outcome(run.key, run.path)


def _add_run(
    run: RunFiles, flat_map: FlatMap, recipe: Recipe, writer: StoreWriter, dataset: str
) -> None:
    frames = process_run(read_surface_run(run.path), flat_map, recipe, str(run.path))
    if frames.tr != writer.tr:
        raise InputError(
            f"{run.path} has a TR of {frames.tr:g} s and the store one of {writer.tr:g} s: give "
            "--target-tr to resample all runs to one."
        )
    fields = {"dataset": dataset} | run.fields | {"tr": frames.tr, "source_tr": frames.source_tr}
    if run.events is not None:
        fields["events"] = _shifted(read_events(run.events), frames, recipe)
    writer.add(
        run.key,
        frames.frames,
        mean=frames.mean,
        std=frames.std,
        missing=frames.missing,
        qc=frames.qc,
        **fields,
    )


def _shifted(events: list[dict[str, Any]], frames: Frames, recipe: Recipe) -> list[dict[str, Any]]:
    """Events counted from the first frame that was kept; of a part, those that begin in it."""
    if recipe.keeps_all:
        return events
    last = len(frames.frames) * frames.tr
    moved = [event | {"onset": round(event["onset"] - frames.first_second, 6)} for event in events]
    return [event for event in moved if 0 <= event["onset"] < last]


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
            tr = read_surface_run(run.path).tr
            if tr:
                return tr
    raise InputError(f"{runs[0].path} does not say its TR: give it in seconds with --tr.")


def _finish(writer: StoreWriter) -> Store:
    with tqdm.tqdm(desc="lay out", unit="frame", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return writer.finish(show)


def _failure(skipped: list[Outcome], n_runs: int) -> str:
    if n_runs == 1 or len(skipped) < n_runs:
        return skipped[-1].reason
    return f"None of the {n_runs} runs could be converted; the first: {skipped[0].reason}"


def _write_skipped(path: Path, skipped: list[Outcome]) -> None:
    if not skipped:
        # A list that an earlier conversion left is not true of this store.
        path.unlink(missing_ok=True)
        return
    lines = (
        json.dumps({"key": outcome.key, "path": str(outcome.path), "reason": outcome.reason})
        for outcome in skipped
    )
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
