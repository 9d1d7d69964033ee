"""Figures of one run: spikes of the global signal, and what its stored frames look like.

The figures of stored frames tell data of the kind that models are trained on from data that went
wrong on the way, by how activity changes from frame to frame and from pixel to pixel (`typical` has
the ranges). They are computed from the same sample of pixels and frames each time, a few MB of a
run. Letters in array names: T frames, X vertices, V sampled pixels, H x W pixels.
"""

import dataclasses

import numpy as np

from data_tools.store.reader import Store

# A change of the global signal is a spike from so many robust standard deviations on.
_SPIKE = 5.0
# What is smaller, against the largest value of the run, is rounding of float32.
_ROUNDING = 1e-6
# The standard deviation of a normal distribution over its median absolute deviation.
_MAD = 1.4826

_MOST_FRAMES = 512  # in time, without a gap
_MOST_PIXELS = 384  # in time
_MOST_IMAGES = 8  # in space
_FEWEST_FRAMES = 32  # a shorter run has no autocorrelation to speak of
_FEWEST_SECONDS = 100.0  # nor a period of 0.01 Hz
_BAND_EDGES = (0.01, 0.1, 0.2)  # Hz
_DISTANCE = 10.0  # mm, beyond what interpolation between the vertices of any mesh reaches


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a figure says of a run.

    Attributes:
      label: as people call it, with its unit.
      digits: after the decimal point.
      worse: "high" or "low", the side on which runs are suspect; "" for both.
      look: a sentence on what to look for.
    """

    label: str
    digits: int
    worse: str
    look: str

    def text(self, value: float) -> str:
        # Zero is added to turn a rounded -0.0 into 0.
        return f"{round(value, self.digits) + 0.0:,.{self.digits}f}"


# Measured while a run is converted, in the field `qc` of the run table.
QC_MEASURES = {
    "missing_share": Measure(
        "missing pixels (share)", 4, "high", "Above 0.01 a part of the cortex was out of view."
    ),
    "temporal_snr": Measure(
        "temporal SNR", 1, "low", "Mean over standard deviation in time; low is noisy or restless."
    ),
    "global_spikes": Measure(
        "global-signal spikes", 0, "high", "Frames at which the whole brain jumps: motion, mostly."
    ),
    "max_abs": Measure(
        "largest value", 1, "high", "In standard deviations of a pixel; 10 and more are artefacts."
    ),
    "fd_mean": Measure(
        "framewise displacement, mean (mm)", 3, "high", "Above 0.3 mm a subject moved much."
    ),
    "fd_max": Measure(
        "framewise displacement, largest (mm)", 2, "high", "The worst single movement."
    ),
    "fd_share_above_0.5": Measure(
        "frames moved by over 0.5 mm (share)", 3, "high", "Above 0.2 little of the run is usable."
    ),
    "std_dvars_mean": Measure(
        "standardised DVARS, mean", 2, "high", "Change from frame to frame; 1 is what noise gives."
    ),
}

# Computed from the stored frames by `frame_figures`.
FRAME_MEASURES = {
    "power_slow": Measure(
        "power below 0.01 Hz", 3, "", "Drift of the scanner; most of a run that is not detrended."
    ),
    "power_blood": Measure(
        "power at 0.01 to 0.1 Hz", 3, "", "Blood oxygenation: all of it if a run was band-passed."
    ),
    "power_middle": Measure(
        "power at 0.1 to 0.2 Hz", 3, "", "None if a run was low-passed; much with slow breathing."
    ),
    "power_fast": Measure(
        "power above 0.2 Hz", 3, "", "Noise and breathing; 0.6 if frames are noise or out of order."
    ),
    "autocorrelation": Measure(
        "lag-1 autocorrelation", 2, "", "Of a pixel from frame to frame; 0 for noise."
    ),
    "fwhm": Measure(
        "spatial smoothness, FWHM (mm)", 1, "", "Tells smoothing; below the mesh it is pixel noise."
    ),
    "far_correlation": Measure(
        "correlation of pixels 10 mm apart", 2, "", "0 if vertices do not belong to the surface."
    ),
    "spread": Measure("standard deviation", 2, "", "Near 1, as runs are z-scored."),
}


def global_signal_spikes(series_TxX: np.ndarray) -> int:
    """Counts the frames at which the global signal jumps.

    The global signal is the mean over the columns that vary. A frame is a spike when the change
    from the frame before is further from the median change than 5 robust standard deviations (the
    median absolute deviation x 1.4826); a single outlying frame therefore counts twice, on the way
    there and back. If most changes are alike, so that the deviation is 0, every other change
    counts. Changes below 1e-6 of the largest value of the run are rounding, as in a run whose
    global signal was regressed out.
    """
    if len(series_TxX) < 3:
        return 0
    # Columns that do not vary only shift and scale the mean, which no comparison here feels.
    change = np.diff(series_TxX.mean(1, dtype=np.float64))
    deviation = np.abs(change - np.median(change))
    largest = max(float(series_TxX.max()), -float(series_TxX.min()))
    limit = max(_SPIKE * _MAD * float(np.median(deviation)), _ROUNDING * largest)
    return int((deviation > limit).sum())


def frame_figures(store: Store, run: int) -> dict[str, float]:
    """Figures of the stored frames of a run, as far as its length and space allow.

    Returns:
      Keys of `FRAME_MEASURES`:
      power_slow, power_blood, power_middle, power_fast: shares of the power below 0.01 Hz, to 0.1,
        to 0.2, and above, mean over pixels; for runs of 100 s and more.
      autocorrelation: from a frame to the next, mean over pixels; for 32 frames and more.
      spread: root mean square of the pixels.
      fwhm: of the Gaussian kernel that would make white noise as smooth, in mm, from the variance
        of the differences of neighbouring pixels (Forman et al. 1995, doi:10.1002/mrm.1910330508).
      far_correlation: of pixels some 10 mm apart in a frame, whose mean is subtracted. Both are
        for spaces with a pixel size.
    """
    return _in_time(store, run) | _in_space(store, run)


def _in_time(store: Store, run: int) -> dict[str, float]:
    # The middle of the run, at valid pixels spread over the whole frame.
    n_all = store.runs[run]["n_frames"]
    n_read = min(n_all, _MOST_FRAMES)
    pixels = thinned(np.flatnonzero(store.valid(run)), _MOST_PIXELS)
    frames = store.read(run, (n_all - n_read) // 2, n_read).reshape(n_read, -1)
    x_TxV = frames[:, pixels].astype(np.float32)
    figures = {"spread": float(np.sqrt(np.mean(x_TxV**2)))}
    x_TxV = x_TxV - x_TxV.mean(0)
    power_V = np.einsum("tv,tv->v", x_TxV, x_TxV)
    x_TxV, power_V = x_TxV[:, power_V > 0], power_V[power_V > 0]
    n_frames, n_pixels = x_TxV.shape
    if not n_pixels or n_frames < _FEWEST_FRAMES:
        return figures
    product_V = np.einsum("tv,tv->v", x_TxV[1:], x_TxV[:-1])
    figures["autocorrelation"] = float(np.mean(product_V / power_V))
    if n_frames * store.tr >= _FEWEST_SECONDS:
        figures |= _spectrum(x_TxV, store.tr)
    return figures


def _spectrum(x_TxV: np.ndarray, tr: float) -> dict[str, float]:
    """Shares of the power in the four bands, as far as there are such frequencies at the TR."""
    n_frames = len(x_TxV)
    # A Hann window: slow drift must not leak into the bands above.
    window = np.sin(np.pi * np.arange(n_frames) / n_frames) ** 2
    power = np.abs(np.fft.rfft(x_TxV * window[:, None], axis=0)) ** 2
    share = (power / power.sum(0)).mean(1)
    frequency = np.fft.rfftfreq(n_frames, tr)
    band = np.searchsorted(_BAND_EDGES, frequency, side="right")
    names = ("power_slow", "power_blood", "power_middle", "power_fast")
    return {
        name: float(share[band == i].sum()) for i, name in enumerate(names) if (band == i).any()
    }


def _in_space(store: Store, run: int) -> dict[str, float]:
    geometry = store.geometry
    if not geometry.pixel_size:
        return {}
    n_frames = store.runs[run]["n_frames"]
    chosen = thinned(np.arange(n_frames), _MOST_IMAGES)
    images = np.concatenate([store.read(run, int(frame), 1) for frame in chosen])
    valid = geometry.to_frames(store.valid(run))
    images = geometry.to_frames(images.astype(np.float32))
    images -= images[:, valid].mean(1)[:, None, None]
    variance = float(np.mean(images[:, valid] ** 2))
    far_step = round(_DISTANCE / geometry.pixel_size)
    near, far = (_correlation(images, valid, step, variance) for step in (1, far_step))
    figures = {}
    if near is not None and near < 1:
        # Noise without any smoothness has a correlation of 0 or, by chance, less.
        fwhm = geometry.pixel_size * np.sqrt(-2 * np.log(2) / np.log(max(near, 1e-6)))
        figures["fwhm"] = float(fwhm)
    if far is not None:
        figures["far_correlation"] = far
    return figures


def _correlation(
    images_TxHxW: np.ndarray, valid_HxW: np.ndarray, step: int, variance: float
) -> float | None:
    """Correlation of valid pixels `step` rows or columns apart; None if there are none."""
    if not (step and variance):
        return None
    squares, n_pairs = 0.0, 0
    for axis in (0, 1):
        one, other = ([slice(None)] * 2 for _ in "12")
        one[axis], other[axis] = slice(step, None), slice(None, -step)
        both = valid_HxW[tuple(one)] & valid_HxW[tuple(other)]
        difference = (images_TxHxW[:, *one] - images_TxHxW[:, *other])[:, both]
        squares += float(np.sum(difference**2, dtype=np.float64))
        n_pairs += difference.size
    return 1 - squares / n_pairs / (2 * variance) if n_pairs else None


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spread from the first to the last."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]
