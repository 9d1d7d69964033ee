"""Regression of confounds and temporal filtering of a run, at once.

A confound that is regressed after the series was filtered, but is not filtered itself, brings the
removed frequencies back (Lindquist et al. 2019, doi:10.1002/hbm.24528). nilearn filters both. It
needs most of a minute for a run of 1200 x 59,412; but what it does is linear in the data, so we
let it denoise the identity matrix and have the whole of it as one (T x T) matrix, with which a run
is a matrix product of seconds. Letters in array names: T frames, X vertices, C confounds.
"""

import numpy as np
from threadpoolctl import threadpool_limits

from data_tools.errors import InputError

# SciPy pads so many frames at each end for a band-pass of nilearn's order 5, and needs one more.
_FILTER_PAD = 33
# What float32 leaves of a column that was explained completely, relative to its spread and mean.
_ROUNDING = 1e-5, 2e-7
_COLUMN_BLOCK = 2048


def denoise(
    x_TxX: np.ndarray,
    tr: float,
    confounds_TxC: np.ndarray | None = None,
    highpass: float | None = None,
    lowpass: float | None = None,
    name: str = "The run",
) -> np.ndarray:
    """Removes what the confounds explain and the frequencies outside a band.

    The filter is a zero-phase Butterworth of order 5. With a high-pass the linear trend goes first,
    which would ring at both ends otherwise. The mean of each column stays, and a column in which
    only rounding is left (of a constant, or of one that the confounds explain) is exactly constant,
    so that it still counts as missing. A column with NaN becomes NaN; others do not notice.

    Args:
      x_TxX: (T, X) float32.
      tr: seconds between frames.
      confounds_TxC: (T, C) finite regressors.
      highpass, lowpass: edges of the band in Hz; None leaves it open.
      name: of the run, for errors.

    Returns:
      (T, X) float32; the input itself if nothing is to do.
    """
    filtered = highpass is not None or lowpass is not None
    n_frames = len(x_TxX)
    n_confounds = 0 if confounds_TxC is None else confounds_TxC.shape[1]
    check_denoising(n_frames, tr, n_confounds, highpass, lowpass, name)
    if not (filtered or n_confounds):
        return x_TxX
    from nilearn.signal import clean  # slow to import, and most runs are not denoised

    # Which thread adds what would show in the last bit: stores shall not depend on the cores.
    with threadpool_limits(1, "blas"):
        operator_TxT = clean(
            np.eye(n_frames),
            detrend=highpass is not None,
            standardize=None,
            confounds=confounds_TxC if n_confounds else None,
            filter="butterworth" if filtered else False,
            high_pass=highpass,
            low_pass=lowpass,
            t_r=tr,
            butterworth__copy=True,  # all columns at once, not one by one
        )
        operator_TxT = (operator_TxT - operator_TxT.mean(0)).astype(np.float32)
        out = np.empty(x_TxX.shape, np.float32)
        for start in range(0, x_TxX.shape[1], _COLUMN_BLOCK):
            block = slice(start, start + _COLUMN_BLOCK)
            mean = x_TxX[:, block].mean(0, dtype=np.float64).astype(np.float32)
            x = x_TxX[:, block] - mean
            y = operator_TxT @ x
            y[:, _spread(y) <= _ROUNDING[0] * _spread(x) + _ROUNDING[1] * np.abs(mean)] = 0
            out[:, block] = y + mean
    return out


def check_denoising(
    n_frames: int,
    tr: float,
    n_confounds: int,
    highpass: float | None,
    lowpass: float | None,
    name: str,
) -> None:
    """Refuses a run that is too short for the filter or for the number of its confounds."""
    check_band(highpass, lowpass, tr)
    filtered = highpass is not None or lowpass is not None
    if filtered and n_frames <= _FILTER_PAD:
        raise InputError(
            f"{name} has {n_frames} frames, too few to filter: leave it out, or give neither "
            "--highpass nor --lowpass."
        )
    # Each frequency has two degrees of freedom; the mean is excluded.
    band = (0.5 / tr if lowpass is None else lowpass) - (highpass or 0)
    n_free = round(2 * band * tr * n_frames) - (highpass is None)
    if (filtered or n_confounds) and n_confounds >= n_free:
        raise InputError(
            f"{name} has {n_frames} frames, of which {n_confounds} confounds and the filter leave "
            "nothing: give fewer with --confounds, or a wider band."
        )


def check_band(highpass: float | None, lowpass: float | None, tr: float | None = None) -> None:
    """Refuses edges in Hz that leave no band, or that are above the Nyquist frequency of a TR."""
    for flag, edge in (("--highpass", highpass), ("--lowpass", lowpass)):
        if edge is None:
            continue
        if not edge > 0:
            raise InputError(f"{flag}={edge:g} is no frequency: give one above 0 Hz, or none.")
        if tr is not None and edge >= 0.5 / tr:
            raise InputError(
                f"{flag}={edge:g} is not below {0.5 / tr:.4g} Hz, the highest frequency in a run "
                f"with a TR of {tr:g} s: give a lower one, or none."
            )
    if highpass is not None and lowpass is not None and highpass >= lowpass:
        raise InputError(
            f"--highpass={highpass:g} is not below --lowpass={lowpass:g}, so that no frequency is "
            "left: exchange them, or leave one out."
        )


def _spread(x_TxX: np.ndarray) -> np.ndarray:
    """(X,) standard deviation of centred columns."""
    return np.sqrt(np.einsum("tx,tx->x", x_TxX, x_TxX) / len(x_TxX))
