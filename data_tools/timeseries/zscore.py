"""Standardising of time series, time along the first axis, and the cast to float16.

Sums over time are taken in float64, and everything else in the precision of the data, in blocks of
columns that stay in cache: a whole-brain run needs little more memory than its float32 input and
output. Letters in array names: T frames, V columns (vertices or pixels).
"""

import numpy as np

from data_tools.errors import InputError

# A column that varies less carries no signal, only rounding.
MIN_STD = 1e-6
# After z-scoring, a value this large is a spike that would drown a whole frame.
MAX_VALUE = 100.0

_COLUMN_BLOCK = 512


def zscore(x_TxV: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subtracts the mean over time of finite values and divides by the population deviation.

    Returns:
      z: (T, V) float32; columns whose standard deviation is below 1e-6 are 0. mean, std: (V,)
      float32 scale, both 0 for these columns; no other has a std of 0.
    """
    z = np.empty(x_TxV.shape, np.float32)
    return z, *mean_and_std(x_TxV, z)


def mean_and_std(
    x_TxV: np.ndarray, z_TxV: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scale that `zscore` takes out, as it returns it; `z_TxV`, if any, takes the z-scores."""
    n_columns = x_TxV.shape[1]
    mean, std = np.empty(n_columns, np.float32), np.empty(n_columns, np.float32)
    for start in range(0, n_columns, _COLUMN_BLOCK):
        block = slice(start, start + _COLUMN_BLOCK)
        x, centre, spread = _centred(x_TxV[:, block])
        varies = spread >= MIN_STD
        mean[block], std[block] = centre * varies, spread * varies
        if z_TxV is not None:
            scale = np.divide(varies, spread, where=varies, out=np.zeros_like(spread))
            np.multiply(x, scale.astype(x.dtype), out=z_TxV[:, block])
    return mean, std


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns less their mean, in float32 unless they hold more digits, and in float64 their
    means and standard deviations."""
    dtype = np.result_type(x.dtype, np.float32)
    mean = x.mean(0, dtype=np.float64)
    # The mean as the data could hold it, then what its rounding left: no digit is lost.
    near = mean.astype(dtype)
    x = np.subtract(x, near, dtype=dtype)
    x -= (mean - near).astype(dtype)
    return x, mean, np.sqrt(np.einsum("tv,tv->v", x, x, dtype=np.float64) / len(x))


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
