"""Resampling of time series to another TR, time along the first axis.

Filtering without phase shift and interpolating are linear in the samples; of PCHIP, all but its
slopes. For one length and TR they are therefore a matrix: what SciPy's functions make, in float64,
of the identity. It is made once, and a run costs a matrix product. Far from its diagonal the matrix
is zero to rounding, so products are taken over bands of its rows, in blocks of the run's columns
that stay in cache. Letters in array names: T frames, T' frames of the result, V columns (vertices
or pixels).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import scipy  # loads its parts at their first use: `--help` does not wait for them
from threadpoolctl import threadpool_limits

from data_tools.errors import InputError, unknown

KINDS = ("pchip", "cubic", "linear")

# The low-pass before down-sampling: Chebyshev type I, forward and backward.
_FILTER_ORDER = 8
_FILTER_RIPPLE_DB = 0.05
_FILTER_CUTOFF = 0.8
# At even order a constant lies at the bottom of the ripple, and it passes the filter twice.
_FILTER_GAIN = 10 ** (-2 * _FILTER_RIPPLE_DB / 20)
# Frames that SciPy pads at each end for a filter of this order, unless the run is too short.
_FILTER_PAD = 27
# The last sample is not lost to rounding of its time, in seconds.
_TIME_SLACK = 1e-9
# 'linear' leaves runs alone whose TR is this close to the target, in seconds.
_LINEAR_TOLERANCE = 0.1

_COLUMN_BLOCK = 512
_IDENTITY_BLOCK = 256  # columns, so that SciPy's temporaries stay small for long runs
# A band of more rows reads fewer frames twice, but multiplies more zeros.
_BAND_ROWS = 64


def resample(x_TxV: np.ndarray, tr: float, new_tr: float, kind: str = "pchip") -> np.ndarray:
    """Resamples a time series to another TR.

    'pchip' and 'cubic' (not-a-knot) interpolate the samples at times tr * i at the times
    new_tr * j, j < int(tr * T / new_tr), as far as there are samples: nothing is extrapolated. A
    run that is down-sampled is low-passed before, without phase shift, against aliasing.
    'linear' fits the same span of time with round(tr * T / new_tr) frames, each at the middle of
    its interval and without a filter; runs within 0.1 s of the new TR are returned as they are.
    It is how the published models were fed at inference.

    Args:
      x_TxV: (T, V) finite values.
      tr: seconds between frames.
      new_tr: seconds between frames of the result.
      kind: 'pchip', 'cubic' or 'linear'.

    Returns:
      (T', V), float64 if the input is and else float32, and computed in that precision; the input
      itself if nothing is to do.

    Raises:
      InputError: the run is too short to interpolate.
    """
    if kind not in KINDS:
        raise unknown(f"There is no resampling '{kind}'", KINDS)
    if _is_kept(tr, new_tr, kind):
        return x_TxV
    n_frames, n_columns = x_TxV.shape
    n_new = n_resampled(n_frames, tr, new_tr, kind)
    if n_frames < 4 or not n_new:
        raise InputError(f"A run of {n_frames} frames is too short to resample: leave it out.")
    dtype = np.float64 if x_TxV.dtype == np.float64 else np.float32
    plan = _plan(n_frames, float(tr), float(new_tr), kind, dtype)
    out = np.empty((n_new, n_columns), dtype)
    scratch = np.empty(3 * n_frames * min(n_columns, _COLUMN_BLOCK), dtype)
    # How threads share a product shows in its last bits, and stores must not depend on the number
    # of cores. Other runs can use them.
    with threadpool_limits(1, "blas"):
        for start in range(0, n_columns, _COLUMN_BLOCK):
            block = slice(start, start + _COLUMN_BLOCK)
            _resample_block(x_TxV[:, block], plan, scratch, out[:, block])
    return out


def n_resampled(n_frames: int, tr: float, new_tr: float, kind: str = "pchip") -> int:
    """The number of frames that `resample` makes of a run."""
    if _is_kept(tr, new_tr, kind):
        return n_frames
    if kind == "linear":
        return round(tr * n_frames / new_tr)
    times = new_tr * np.arange(int((tr * n_frames) / new_tr))
    return int((times <= tr * (n_frames - 1) + _TIME_SLACK).sum())


def _is_kept(tr: float, new_tr: float, kind: str) -> bool:
    return tr == new_tr or (kind == "linear" and abs(tr - new_tr) <= _LINEAR_TOLERANCE)


@dataclasses.dataclass(frozen=True)
class _Band:
    """Some rows of a matrix: their weights in the columns of a slice, all others being 0."""

    rows: slice
    columns: slice
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How runs of one length and TR are resampled.

    Attributes:
      gain: what constants are multiplied by.
      low_pass: (T, T) matrix to apply before the slopes of PCHIP are taken, if any.
      interpolate: (T', T) matrix; for PCHIP (T', 2 T), of values and half slopes in turn.
      has_slopes: whether it is PCHIP.
    """

    gain: float
    low_pass: tuple[_Band, ...] | None
    interpolate: tuple[_Band, ...]
    has_slopes: bool


# The runs of a dataset have one of a few lengths.
@functools.lru_cache(maxsize=16)
def _plan(n_frames: int, tr: float, new_tr: float, kind: str, dtype: type) -> _Plan:
    n_new = n_resampled(n_frames, tr, new_tr, kind)
    if kind == "linear":
        return _Plan(1.0, None, _bands(_linear_matrix(n_frames, n_new), dtype), False)
    times, new_times = tr * np.arange(n_frames), new_tr * np.arange(n_new)
    down = new_tr > tr
    gain = _FILTER_GAIN if down else 1.0

    def low_pass(x: np.ndarray) -> np.ndarray:
        return _low_pass(x, new_tr / tr) if down else x

    def spline(x: np.ndarray) -> np.ndarray:
        return scipy.interpolate.CubicSpline(times, low_pass(x), bc_type="not-a-knot")(new_times)

    if kind == "cubic":
        return _Plan(gain, None, _bands(_matrix_of(spline, n_frames), dtype), False)
    filter_bands = _bands(_matrix_of(low_pass, n_frames), dtype) if down else None
    return _Plan(gain, filter_bands, _bands(_hermite_matrix(n_frames, new_times / tr), dtype), True)


def _resample_block(x: np.ndarray, plan: _Plan, scratch: np.ndarray, out: np.ndarray) -> None:
    n_frames, size = len(x), x.size
    centred = scratch[:size].reshape(x.shape)
    # In a sum of float32 products, small differences of large values would be lost.
    centre = x.mean(0, dtype=scratch.dtype)
    np.subtract(x, centre, out=centred)
    if plan.has_slopes:
        both = scratch[size : 3 * size].reshape(n_frames, 2, -1)
        values = both[:, 0]
        if plan.low_pass is None:
            values[:] = centred
        else:
            _multiply(plan.low_pass, centred, values)
        _half_slopes(values, out=both[:, 1], scratch=centred)
        _multiply(plan.interpolate, both.reshape(2 * n_frames, -1), out)
    else:
        _multiply(plan.interpolate, centred, out)
    out += plan.gain * centre


def _multiply(bands: tuple[_Band, ...], x: np.ndarray, out: np.ndarray) -> None:
    for band in bands:
        np.matmul(band.weights, x[band.columns], out=out[band.rows])


def _half_slopes(values: np.ndarray, out: np.ndarray, scratch: np.ndarray) -> None:
    """Half the slope, per frame, that PCHIP gives to each sample.

    Inside, slopes are the harmonic mean of the steps to both sides, and 0 at extrema (Fritsch and
    Butland 1984); at the ends they come from three samples, with the sign of the outermost step and
    at most three times as large (Moler 2004).
    """
    steps = np.subtract(values[1:], values[:-1], out=scratch[1:])
    for end, near, far in ((0, steps[0], steps[1]), (-1, steps[-1], steps[-2])):
        limit = 1.5 * near
        out[end] = (0.75 * near - 0.25 * far).clip(np.minimum(limit, 0), np.maximum(limit, 0))
    inner = np.multiply(steps[1:], steps[:-1], out=out[1:-1])
    np.maximum(inner, 0, out=inner)
    sums = np.subtract(values[2:], values[:-2], out=scratch[1:-1])
    sums[sums == 0] = 1  # an extremum, or flat: 0 already
    inner /= sums


def _low_pass(x: np.ndarray, factor: float) -> np.ndarray:
    """Removes what would alias when a series is down-sampled by a factor above 1."""
    cutoff = _FILTER_CUTOFF / factor
    sos = scipy.signal.cheby1(_FILTER_ORDER, _FILTER_RIPPLE_DB, cutoff, output="sos")
    pad = min(_FILTER_PAD, len(x) - 1)
    return scipy.signal.sosfiltfilt(sos, x, axis=0, padtype="even", padlen=pad)


def _matrix_of(function: Callable[[np.ndarray], np.ndarray], n_frames: int) -> np.ndarray:
    """The matrix of a function that is linear along the first axis."""
    starts = range(0, n_frames, _IDENTITY_BLOCK)
    widths = [min(_IDENTITY_BLOCK, n_frames - start) for start in starts]
    columns = [np.eye(n_frames, w, -start) for start, w in zip(starts, widths, strict=True)]
    # Filters are many times slower where their response fades into denormal numbers.
    return np.concatenate([function(x + 1e-20) for x in columns], axis=1)


def _linear_matrix(n_frames: int, n_new: int) -> np.ndarray:
    """Frames are intervals: both series fill the same span, and the ends are held."""
    places = (np.arange(n_new) + 0.5) * (n_frames / n_new) - 0.5
    places = places.clip(0, n_frames - 1)
    before = places.astype(np.int64).clip(max=n_frames - 2)
    weight, rows = places - before, np.arange(n_new)
    matrix = np.zeros((n_new, n_frames))
    matrix[rows, before], matrix[rows, before + 1] = 1 - weight, weight
    return matrix


def _hermite_matrix(n_frames: int, places: np.ndarray) -> np.ndarray:
    """(T', 2 T) weights of values and half slopes in turn, at places in frames."""
    before = places.astype(np.int64).clip(max=n_frames - 2)
    u, rows = places - before, np.arange(len(places))
    matrix = np.zeros((len(places), n_frames, 2))
    matrix[rows, before, 0] = (1 + 2 * u) * (1 - u) ** 2
    matrix[rows, before, 1] = 2 * u * (1 - u) ** 2
    matrix[rows, before + 1, 0] = u**2 * (3 - 2 * u)
    matrix[rows, before + 1, 1] = 2 * u**2 * (u - 1)
    return matrix.reshape(len(places), -1)


def _bands(matrix: np.ndarray, dtype: type) -> tuple[_Band, ...]:
    """Cuts a matrix into bands of rows, without the columns that are zero to rounding."""
    bands = []
    for start in range(0, len(matrix), _BAND_ROWS):
        rows = matrix[start : start + _BAND_ROWS]
        used = np.flatnonzero(np.abs(rows).max(0) > np.finfo(dtype).eps / 16)
        columns = slice(int(used[0]), int(used[-1]) + 1)
        weights = np.ascontiguousarray(rows[:, columns], dtype)
        bands.append(_Band(slice(start, start + len(rows)), columns, weights))
    return tuple(bands)
