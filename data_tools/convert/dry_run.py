"""The size of a store that is not made yet, from the headers and tables of its runs."""

import functools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import tqdm

from data_tools.convert.beside import place_events, read_beside
from data_tools.convert.conversion import (
    Job,
    check_runs,
    check_single,
    check_store_tr,
    choose_shard,
)
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.parallel import in_parallel
from data_tools.spaces.geometry import Geometry
from data_tools.store.description import FRAME_DTYPE
from data_tools.timeseries.process_run import check_mesh, plan_frames
from data_tools.timeseries.recipe import resolve_tr
from data_tools.wording import format_bytes

Size = tuple[str, int] | Outcome  # key and frames of a run, or why it cannot be in the store


def print_sizes(
    sizes: Iterable[Size], geometry: Geometry, output: Path, done: str
) -> tuple[list[Outcome], int]:
    """Prints the size of each run in a store of a geometry and of the whole.

    Nothing is written at `output`. Runs are "converted" or "imported" (`done`), or cannot be.
    Returns those that cannot be, and the number of others.
    """
    frame_bytes = geometry.n_patches * geometry.patch_dim * FRAME_DTYPE.itemsize
    n_runs, n_frames, bad = 0, 0, []
    for size in sizes:
        if isinstance(size, Outcome):
            bad.append(size)
            tqdm.tqdm.write(f"{size.key}  cannot be {done}: {size.reason}")
            continue
        key, kept = size
        n_runs, n_frames = n_runs + 1, n_frames + kept
        tqdm.tqdm.write(f"{key}  {kept:,} frames  {format_bytes(kept * frame_bytes)}")
    above = next(path for path in output.absolute().parents if path.exists())
    print(
        f"{output} would hold {n_runs:,} runs, {n_frames:,} frames, "
        f"{format_bytes(n_frames * frame_bytes)}; free there: "
        f"{format_bytes(shutil.disk_usage(above).free)}. Runs that cannot be {done}: {len(bad):,}."
    )
    return bad, n_runs


def estimate_sizes(
    runs: Sequence[RunFiles], job: Job, shard: tuple[int, int], jobs: int
) -> Iterable[Size]:
    """The sizes of the runs of a shard (see `choose_shard`), read in `jobs` processes."""
    tr, times = check_runs(runs, job.recipe)
    work = [
        functools.partial(_try_estimate, run, job, times[run.identity], tr)
        for run in choose_shard(runs, *shard)
    ]
    return in_parallel(work, jobs, "headers", "run", ordered=True)


def _try_estimate(run: RunFiles, job: Job, times: int, store_tr: float) -> Size:
    try:
        check_single(run.key, times)
        with as_input_errors():
            return run.key, estimate_frames(run, job, store_tr)
    except InputError as error:
        return Outcome(run.key, run.shown_path, run.shown(str(error)))


def estimate_frames(run: RunFiles, job: Job, store_tr: float) -> int:
    """The number of frames that a run will have; InputError if header or tables refuse it."""
    beside, recipe, name = read_beside(run), job.recipe, str(run.path)
    header = run.read_header(run.path)
    beside.check_frames(header.n_frames, run)
    check_mesh(header, job.space_map, name)
    tr = resolve_tr(header.tr, beside.tr, recipe.tr, name)
    check_store_tr(recipe.target_tr or tr, store_tr, name)
    if beside.events is not None:
        place_events(beside.events, header.n_frames * tr, name)
    return plan_frames(header.n_frames, tr, recipe, beside.confounds, name)[-1]
