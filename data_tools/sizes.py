"""How large the store of some runs will be, told by their headers before anything is converted."""

import math

from data_tools.chain import Recipe, kept_frames, known_tr
from data_tools.confounds import read_confounds
from data_tools.errors import InputError
from data_tools.geometry import Geometry
from data_tools.preprocess import _n_resampled as n_resampled
from data_tools.run_files import RunFiles, sidecar_tr
from data_tools.store import FRAME_DTYPE


def estimate(run: RunFiles, recipe: Recipe, geometry: Geometry) -> tuple[int, int]:
    """Frames and bytes that a run will have in a store.

    Raises:
      InputError: its header cannot be read, or it is too short.
    """
    header = run.read_header(run.path)
    tr = known_tr(header.tr, sidecar_tr(run), recipe.tr, str(run.path))
    confounds = read_confounds(run.confounds) if run.confounds else None
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


def format_bytes(n: float) -> str:
    """A number of bytes as people write it, such as "1.40 TB"."""
    power = min(4, int(math.log(max(n, 1), 1000)))
    value = n / 1000**power
    digits = max(0, 2 - int(math.log10(max(value, 1))))
    return f"{value:.{digits if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
