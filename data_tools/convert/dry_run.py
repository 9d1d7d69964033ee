"""How large the store of some runs will be, told by their headers before anything is converted."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import joblib
import tqdm

from data_tools.convert.conversion import Job, check_single, n_processes
from data_tools.convert.raw_run import RunFiles, sidecar_tr
from data_tools.errors import InputError, as_input_errors
from data_tools.spaces.space_map import SpaceMap
from data_tools.store.reader import FRAME_DTYPE
from data_tools.timeseries.confounds import read_confounds
from data_tools.timeseries.process_run import check_mesh, kept_frames
from data_tools.timeseries.recipe import Recipe, resolve_tr
from data_tools.timeseries.resampling import n_resampled
from data_tools.wording import format_bytes


def print_sizes(
    runs: Sequence[RunFiles],
    job: Job,
    output: Path,
    *,
    shard: tuple[int, int] = (0, 1),
    jobs: int = 1,
) -> None:
    """Prints the size of each run in a store and of the whole, and what cannot be converted.

    Args:
      runs: what would be converted.
      job: how.
      output: where the store would appear; nothing is written there.
      shard: which part of the runs, see `Job.shard`.
      jobs: number of processes that read headers, -1 for one a core.
    """
    times = job.times(runs)
    runs = job.shard(runs, *shard)
    work = [joblib.delayed(_try_estimate)(run, job, times[job.public(run).key]) for run in runs]
    sizes = joblib.Parallel(n_processes(jobs, work), return_as="generator")(work)
    frames, size, n_bad = 0, 0, 0
    bar = tqdm.tqdm(sizes, "headers", len(runs), unit="run", leave=False)
    for run, found in zip(runs, bar, strict=True):
        key = job.public(run).key
        if isinstance(found, str):
            n_bad += 1
            tqdm.tqdm.write(f"{key}  cannot be converted: {found}")
            continue
        frames, size = frames + found[0], size + found[1]
        tqdm.tqdm.write(f"{key}  {found[0]:,} frames  {format_bytes(found[1])}")
    whole = describe_whole(output, len(runs) - n_bad, frames, size)
    print(f"{whole} Runs that cannot be converted: {n_bad:,}.")


def describe_whole(output: Path, n_runs: int, n_frames: int, n_bytes: int) -> str:
    """A sentence on a store that is not there yet, and on the room for it."""
    above = next(path for path in output.absolute().parents if path.exists())
    return (
        f"{output} would hold {n_runs:,} runs, {n_frames:,} frames, {format_bytes(n_bytes)}; free "
        f"there: {format_bytes(shutil.disk_usage(above).free)}."
    )


def _try_estimate(run: RunFiles, job: Job, times: int) -> tuple[int, int] | str:
    """Frames and bytes of a run in the store, or why there will be none."""
    try:
        check_single(job.public(run).key, times)
        with as_input_errors():
            return estimate(run, job.recipe, job.space_map)
    except InputError as error:
        return job.shown(str(error), run)


def estimate(run: RunFiles, recipe: Recipe, space_map: SpaceMap) -> tuple[int, int]:
    """Frames and bytes that a run will have in a store.

    Raises:
      InputError: its header cannot be read, or tells that it cannot be converted.
    """
    header, geometry = run.read_header(run.path), space_map.geometry
    check_mesh(header, space_map, str(run.path))
    tr = resolve_tr(header.tr, sidecar_tr(run), recipe.tr, str(run.path))
    tells_dummies = recipe.drop_dummies == "auto" and run.confounds is not None
    confounds = read_confounds(run.confounds) if tells_dummies else None
    window = kept_frames(header.n_frames, tr, recipe, confounds, str(run.path))
    n_kept, target = window.stop - window.start, recipe.target_tr or tr
    n_frames = n_kept if target == tr else n_resampled(n_kept, tr, target, recipe.kind)
    if n_frames < recipe.min_frames:
        raise InputError(
            f"{run.path} has {n_frames} frames of {target:g} s and a clip needs "
            f"{recipe.min_frames}: leave it out, or lower --min-frames."
        )
    frame_bytes = geometry.n_patches * geometry.patch_dim * FRAME_DTYPE.itemsize
    return n_frames, n_frames * frame_bytes
