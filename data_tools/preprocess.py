"""Standardising and resampling of time series, time along the first axis.

Everything is computed in float64 in blocks of columns, so that a whole-brain run needs little more
memory than its float32 input and output. Letters in array names: T frames, V columns (vertices or
pixels).
"""

import numpy as np
from scipy import interpolate, signal

from data_tools.errors import InputError

KINDS = ("pchip", "cubic", "linear")
# A column that varies less carries no signal, only rounding.
MIN_STD = 1e-6
# After z-scoring, a value this large is a spike that would drown a whole frame.
MAX_VALUE = 100.0

# The low-pass before down-sampling: Chebyshev type I, forward and backward.
_FILTER_ORDER = 8
_FILTER_RIPPLE_DB = 0.05
_FILTER_CUTOFF = 0.8
# Frames that SciPy pads at each end for a filter of this order, unless the run is too short.
_FILTER_PAD = 27
# The last sample is not lost to rounding of its time, in seconds.
_TIME_SLACK = 1e-9
# 'linear' leaves runs alone whose TR is this close to the target, in seconds.
_LINEAR_TOLERANCE = 0.1

_COLUMN_BLOCK = 2048


def zscore(x_TxV: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subtracts the mean over time and divides by the population standard deviation.

    Args:
      x_TxV: (T, V) finite values.

    Returns:
      z: (T, V) float32; columns whose standard deviation is below 1e-6 are 0.
      mean, std: (V,) float32 scale, both 0 for these columns.
    """
    n_columns = x_TxV.shape[1]
    z = np.empty(x_TxV.shape, np.float32)
    mean, std = np.empty(n_columns, np.float32), np.empty(n_columns, np.float32)
    for block in _column_blocks(n_columns):
        x, centre, spread = _centred(x_TxV[:, block])
        varies = spread >= MIN_STD
        x *= np.divide(varies, spread, where=varies, out=np.zeros_like(spread))
        z[:, block], mean[block], std[block] = x, centre * varies, spread * varies
    return z, mean, std


def is_constant(x_TxV: np.ndarray) -> np.ndarray:
    """(V,) bool: the columns without signal, which `zscore` makes 0."""
    constant = np.empty(x_TxV.shape[1], bool)
    for block in _column_blocks(x_TxV.shape[1]):
        constant[block] = _centred(x_TxV[:, block])[2] < MIN_STD
    return constant


def _centred(x_TxV: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns in float64 less their mean, their means, and their standard deviations."""
    x = x_TxV.astype(np.float64)
    centre = x.mean(0)
    x -= centre
    return x, centre, np.sqrt(np.einsum("tv,tv->v", x, x) / len(x))


def resample(x_TxV: np.ndarray, tr: float, new_tr: float, kind: str = "pchip") -> np.ndarray:
    """Resamples a time series to another TR.

    'pchip' and 'cubic' (not-a-knot) interpolate the samples at times tr * i at the times
    new_tr * j, j < int(tr * T / new_tr), as far as there are samples: nothing is extrapolated. A
    run that is down-sampled is low-passed before, without phase shift, against aliasing.
    'linear' fits the same span of time with round(tr * T / new_tr) frames, each at the middle of
    its interval and without a filter; runs within 0.1 s of the new TR are returned as they are.
    It is how the published models were fed at inference.

    Args:
      x_TxV: (T, V) values.
      tr: seconds between frames.
      new_tr: seconds between frames of the result.
      kind: 'pchip', 'cubic' or 'linear'.

    Returns:
      (T', V), float64 if the input is and else float32; the input itself if nothing is to do.

    Raises:
      InputError: the run is too short to interpolate.
    """
    if kind not in KINDS:
        raise InputError(f"There is no resampling '{kind}': choose one of {', '.join(KINDS)}.")
    if tr == new_tr or (kind == "linear" and abs(tr - new_tr) <= _LINEAR_TOLERANCE):
        return x_TxV
    n_frames, n_columns = x_TxV.shape
    if n_frames < 4:
        raise InputError(f"A run of {n_frames} frames is too short to resample: leave it out.")
    n_new = _n_resampled(n_frames, tr, new_tr, kind)
    dtype = np.float64 if x_TxV.dtype == np.float64 else np.float32
    out = np.empty((n_new, n_columns), dtype)
    for block in _column_blocks(n_columns):
        x = x_TxV[:, block].astype(np.float64)
        out[:, block] = _resample_block(x, n_new, tr, new_tr, kind)
    return out


def _n_resampled(n_frames: int, tr: float, new_tr: float, kind: str) -> int:
    if kind == "linear":
        return round(tr * n_frames / new_tr)
    times = new_tr * np.arange(int((tr * n_frames) / new_tr))
    return int((times <= tr * (n_frames - 1) + _TIME_SLACK).sum())


def _resample_block(x: np.ndarray, n_new: int, tr: float, new_tr: float, kind: str) -> np.ndarray:
    n_frames = len(x)
    if kind == "linear":
        # Frames are intervals: both series fill the same span, and the ends are held.
        places = (np.arange(n_new) + 0.5) * (n_frames / n_new) - 0.5
        places = places.clip(0, n_frames - 1)
        before = places.astype(np.int64)
        after = np.minimum(before + 1, n_frames - 1)
        weight = (places - before)[:, None]
        return x[before] * (1 - weight) + x[after] * weight
    if new_tr > tr:
        x = low_pass(x, new_tr / tr)
    times, new_times = tr * np.arange(n_frames), new_tr * np.arange(n_new)
    if kind == "pchip":
        return interpolate.PchipInterpolator(times, x, axis=0)(new_times)
    return interpolate.CubicSpline(times, x, axis=0, bc_type="not-a-knot")(new_times)


def low_pass(x_TxV: np.ndarray, factor: float) -> np.ndarray:
    """Removes what would alias when a series is down-sampled by a factor above 1."""
    sos = signal.cheby1(_FILTER_ORDER, _FILTER_RIPPLE_DB, _FILTER_CUTOFF / factor, output="sos")
    pad = min(_FILTER_PAD, len(x_TxV) - 1)
    return signal.sosfiltfilt(sos, x_TxV, axis=0, padtype="even", padlen=pad)


def to_float16(frames: np.ndarray, name: str = "The run") -> np.ndarray:
    """Casts z-scored frames to float16; errors call the run by `name`.

    Raises:
      InputError: a value is not finite, or at least 100: that is a spike, not brain activity.
    """
    # NaN fails every comparison, so one test finds it too; min and max need no copy.
    low, high = frames.min(initial=0), frames.max(initial=0)
    if not (low > -MAX_VALUE and high < MAX_VALUE):
        worst = "NaN" if np.isnan(low) or np.isnan(high) else f"{max(-low, high):,.0f}"
        raise InputError(
            f"{name} has a largest value of {worst} after z-scoring, where less than "
            f"{MAX_VALUE:.0f} is expected: clean it, or leave it out."
        )
    return frames.astype(np.float16)


def _column_blocks(n_columns: int) -> list[slice]:
    return [slice(i, i + _COLUMN_BLOCK) for i in range(0, n_columns, _COLUMN_BLOCK)]
