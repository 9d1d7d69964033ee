"""The chain from a run to the frames of a store: denoise, z-score, resample, map to pixels.

Denoising is off unless asked for; `Recipe.chain` says whether mapping comes before z-scoring.
Letters in array names: T frames, X values of the run (vertices left, then right), V valid pixels,
N cortical patches, P pixels of a patch.
"""

import dataclasses
import math

import numpy as np

from data_tools.errors import InputError
from data_tools.readers.surface_run import SurfaceHeader, SurfaceRun
from data_tools.readers.volume_run import VolumeHeader, VolumeRun
from data_tools.spaces.space_map import SpaceMap
from data_tools.timeseries.confounds import (
    Confounds,
    check_n_frames,
    motion_figures,
    n_dummies,
    select_confounds,
)
from data_tools.timeseries.denoise import check_denoising, denoise
from data_tools.timeseries.quality import global_signal_spikes
from data_tools.timeseries.recipe import Recipe, resolve_tr
from data_tools.timeseries.resampling import n_resampled, resample
from data_tools.timeseries.zscore import mean_and_std, to_float16, zscore

_FRAME_BLOCK = 16  # as much as the cache of a core holds


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """A run as the frames of a space.

    Attributes:
      frames: (T, N, P) float16, 0 off the cortex and at missing pixels.
      mean, std: (N, P) float32 scale before z-scoring, for chain 'pixel' only.
      missing: sorted offsets into a flat N * P frame, None without missing pixels.
      tr: seconds between frames.
      source_tr: seconds between the frames of the run as it was scanned.
      first_second: scan time of the first frame.
      scanned_seconds: how long the run was scanned, parts left out included.
      qc: missing_share, temporal_snr (None where the means say nothing), global_spikes, max_abs,
        and of confounds what `confounds.motion_figures` gives.
    """

    frames: np.ndarray
    mean: np.ndarray | None
    std: np.ndarray | None
    missing: np.ndarray | None
    tr: float
    source_tr: float
    first_second: float
    scanned_seconds: float
    qc: dict[str, float | None]


def process_run(
    run: SurfaceRun | VolumeRun,
    space_map: SpaceMap,
    recipe: Recipe,
    name: str = "The run",
    *,
    sidecar_tr: float | None = None,
    confounds: Confounds | None = None,
) -> Frames:
    """Takes a run through the chain; errors call it by `name`.

    Args:
      run: its time series.
      space_map: the map of the mesh that it is on.
      recipe: what to do.
      name: of the run.
      sidecar_tr: seconds between frames as the file beside it says.
      confounds: its confounds, one row a frame.

    Raises:
      InputError: the run is on another mesh, its TR is not known, or its data are unfit.
    """
    check_mesh(run, space_map, name)
    tr = resolve_tr(run.tr, sidecar_tr, recipe.tr, name)
    target_tr = recipe.target_tr or tr
    window, wanted, _ = plan_frames(run.n_frames, tr, recipe, confounds, name)
    series = run.series(window)
    # What the map does not use can neither spoil a run nor slow it down.
    series[:, ~space_map.kept] = 0
    bad = np.flatnonzero(~np.isfinite(series).all(0))
    empty = bad[np.isnan(series[:, bad]).all(0)]
    series[:, empty] = 0  # missing, as every constant one is
    if n_bad := len(bad) - len(empty):
        raise InputError(
            f"{name} holds NaN or infinite values at {n_bad:,} vertices: clean it, or leave it out."
        )
    mean, std = mean_and_std(series)
    sample, lost = space_map.without(std == 0)
    _check_missing(lost.mean(), recipe.max_missing, name)
    qc: dict[str, float | None] = {
        "missing_share": round(float(lost.mean()), 6),
        "temporal_snr": temporal_snr(mean, std),
        "global_spikes": global_signal_spikes(series),
    }
    if confounds is not None:
        qc |= motion_figures(confounds.part(window))
    if recipe.denoises:
        series = denoise(series, tr, wanted, recipe.highpass, recipe.lowpass, name)
        # A vertex that the confounds explain to the last bit has no data any more.
        sample, lost = space_map.without((std == 0) | (mean_and_std(series)[1] == 0))
        _check_missing(lost.mean(), recipe.max_missing, name)
        qc["missing_share"] = round(float(lost.mean()), 6)

    if recipe.chain == "pixel":
        series = sample(series)
    series, mean, std = zscore(series)
    series = resample(series, tr, target_tr, recipe.kind)
    hidden = lost if recipe.missing == "record" else np.zeros_like(lost)
    geometry, largest = space_map.geometry, 0.0
    to_patches = geometry.pixels_to_patches
    frames = np.empty((len(series), geometry.n_patches, geometry.patch_dim), np.float16)
    for start in range(0, len(series), _FRAME_BLOCK):
        block = slice(start, start + _FRAME_BLOCK)
        pixels = series[block] if recipe.chain == "pixel" else sample(series[block])
        pixels[:, hidden] = 0
        largest = max(largest, float(pixels.max()), -float(pixels.min()))
        frames[block] = to_patches(to_float16(pixels, name))
    return Frames(
        frames=frames,
        mean=to_patches(mean) if recipe.chain == "pixel" else None,
        std=to_patches(std) if recipe.chain == "pixel" else None,
        missing=np.flatnonzero(to_patches(hidden)) if hidden.any() else None,
        tr=target_tr,
        source_tr=tr,
        first_second=window.start * tr,
        scanned_seconds=run.n_frames * tr,
        qc=qc | {"max_abs": round(largest, 3)},
    )


def check_mesh(
    run: SurfaceRun | SurfaceHeader | VolumeRun | VolumeHeader, space_map: SpaceMap, name: str
) -> None:
    """Refuses a run on another mesh, or with other voxels, than those of the map."""
    same = run.n_vertices[: len(space_map.n_vertices)] == space_map.n_vertices
    if not same or space_map.voxels_sha256 not in ("", run.voxels_sha256):
        raise InputError(f"{name} is on {run.grayordinates} and {space_map.refusal(run.space)}")


def plan_frames(
    n_frames: int, tr: float, recipe: Recipe, confounds: Confounds | None, name: str
) -> tuple[slice, np.ndarray | None, int]:
    """The frames of a run to take, the regressors of these frames, and the length of the result.

    Raises:
      InputError: the header or the table of confounds of the run shows that it cannot be converted.
    """
    if confounds is not None:
        check_n_frames(confounds, n_frames, name)
    window, wanted = kept_frames(n_frames, tr, recipe, confounds, name), None
    if recipe.confounds:
        if confounds is None:
            raise InputError(
                f"{name} has no table of confounds beside it (*_desc-confounds_timeseries.tsv): "
                "put it there, or convert without --confounds."
            )
        steady = (n_frames - n_dummies(confounds, "auto")) * tr
        wanted = select_confounds(confounds.part(window), recipe.confounds, steady, True)
    n_kept, target = window.stop - window.start, recipe.target_tr or tr
    n_wanted = 0 if wanted is None else wanted.shape[1]
    check_denoising(n_kept, tr, n_wanted, recipe.highpass, recipe.lowpass, name)
    n_new = n_kept if target == tr else n_resampled(n_kept, tr, target, recipe.kind)
    recipe.check_length(n_new, target, name)
    return window, wanted, n_new


def kept_frames(
    n_frames: int, tr: float, recipe: Recipe, confounds: Confounds | None, name: str
) -> slice:
    """The frames of a run that begin in the seconds to keep, dummies left out.

    Raises:
      InputError: there is none.
    """
    # A frame at 1.4 * 300 s belongs to a part that begins at 420 s, whatever the rounding.
    start, stop = (
        n_frames if t == math.inf else min(math.ceil(round(t / tr, 6)), n_frames)
        for t in recipe.seconds
    )
    start = max(start, n_dummies(confounds, recipe.drop_dummies, name))
    if start >= stop:
        raise InputError(
            f"{name} lasts {n_frames * tr:g} s, so there is nothing in the seconds to keep: give "
            "others with --seconds, or fewer --drop-dummies."
        )
    return slice(start, stop)


def temporal_snr(mean: np.ndarray, std: np.ndarray) -> float | None:
    """Median over the columns that vary of mean / std.

    None where the means are not above the noise: they were taken out of the run before.
    """
    varies = std > 0
    snr = float(np.median(mean[varies] / std[varies])) if varies.any() else 0.0
    return round(snr, 3) if snr > 1 else None


def _check_missing(share: float, limit: float, name: str) -> None:
    if share == 1:
        raise InputError(f"{name} is constant in time everywhere: leave it out.")
    if share > limit:
        raise InputError(
            f"{name} has no data in {share:.1%} of its pixels, where {limit:.1%} is allowed: leave "
            "it out, or raise --max-missing."
        )
