"""The size of a store that is not made yet, from the headers of its runs."""

import collections
import functools
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import tqdm

from data_tools.convert.conversion import Job, check_single, choose_shard
from data_tools.convert.raw_run import RunFiles, sidecar_tr
from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.parallel import in_parallel
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import FRAME_DTYPE
from data_tools.timeseries.confounds import read_confounds
from data_tools.timeseries.process_run import check_mesh, kept_frames
from data_tools.timeseries.recipe import resolve_tr
from data_tools.timeseries.resampling import n_resampled
from data_tools.wording import format_bytes

Size = tuple[str, int] | Outcome  # key and frames of a run, or why it cannot be in the store


def print_sizes(sizes: Iterable[Size], geometry: Geometry, output: Path, done: str) -> None:
    """Prints the size of each run in a store of a geometry and of the whole.

    Nothing is written at `output`. Runs are "converted" or "imported" (`done`), or cannot be.
    """
    frame_bytes = geometry.n_patches * geometry.patch_dim * FRAME_DTYPE.itemsize
    n_runs, n_frames, n_bad = 0, 0, 0
    for size in sizes:
        if isinstance(size, Outcome):
            n_bad += 1
            tqdm.tqdm.write(f"{size.key}  cannot be {done}: {size.reason}")
            continue
        key, kept = size
        n_runs, n_frames = n_runs + 1, n_frames + kept
        tqdm.tqdm.write(f"{key}  {kept:,} frames  {format_bytes(kept * frame_bytes)}")
    above = next(path for path in output.absolute().parents if path.exists())
    print(
        f"{output} would hold {n_runs:,} runs, {n_frames:,} frames, "
        f"{format_bytes(n_frames * frame_bytes)}; free there: "
        f"{format_bytes(shutil.disk_usage(above).free)}. Runs that cannot be {done}: {n_bad:,}."
    )


def estimate_sizes(
    runs: Sequence[RunFiles], job: Job, shard: tuple[int, int], jobs: int
) -> Iterable[Size]:
    """The sizes of the runs of a shard (see `choose_shard`), read in `jobs` processes."""
    times = collections.Counter(run.key for run in runs)
    work = [
        functools.partial(_try_estimate, run, job, times[run.key])
        for run in choose_shard(runs, *shard)
    ]
    return in_parallel(work, jobs, "headers", "run", ordered=True)


def _try_estimate(run: RunFiles, job: Job, times: int) -> Size:
    try:
        check_single(run.key, times)
        with as_input_errors():
            return run.key, estimate_frames(run, job)
    except InputError as error:
        return Outcome(run.key, run.shown_path, run.shown(str(error)))


def estimate_frames(run: RunFiles, job: Job) -> int:
    """The number of frames that a run will have; InputError if its header refuses it already."""
    header, recipe = run.read_header(run.path), job.recipe
    check_mesh(header, job.space_map, str(run.path))
    tr = resolve_tr(header.tr, sidecar_tr(run), recipe.tr, str(run.path))
    tells_dummies = recipe.drop_dummies == "auto" and run.confounds is not None
    confounds = read_confounds(run.confounds) if tells_dummies else None
    window = kept_frames(header.n_frames, tr, recipe, confounds, str(run.path))
    n_kept, target = window.stop - window.start, recipe.target_tr or tr
    n_frames = n_kept if target == tr else n_resampled(n_kept, tr, target, recipe.kind)
    recipe.check_length(n_frames, target, str(run.path))
    return n_frames
