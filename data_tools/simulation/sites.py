"""Scanning sites: what the same brain looks like in another scanner."""

import dataclasses
import functools

import numpy as np

from data_tools.simulation.cortex import N_VERTICES, smooth_fields
from data_tools.simulation.study import Study

# How far the logarithms of white noise, smooth noise and global signal go from site to site. The
# levels are spaced evenly and dealt at random, so that no two sites are alike.
_SPREAD = np.array([0.35, 0.35, 0.5])
_PATTERN = np.float32(0.2)  # standard deviation of the logarithm of spatial patterns


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A scanner and its sequence.

    Attributes:
      tr: seconds from frame to frame.
      white: factor of the amplitude of white noise.
      smooth: factor of the amplitude of smooth noise.
      global_signal: factor of the amplitude of the global signal.
      noise_gain: (X,) float32 factor of noise at each vertex, as of receive coils.
      baseline: (X,) float32 factor of the mean image.
    """

    tr: float
    white: float
    smooth: float
    global_signal: float
    noise_gain: np.ndarray
    baseline: np.ndarray


@functools.lru_cache(maxsize=8)
def draw_site(study: Study, site: int) -> Site:
    """A site of the study; where there is only one it changes nothing."""
    if study.sites == 1:
        one = np.ones(2 * N_VERTICES, np.float32)
        return Site(study.tr, 1.0, 1.0, 1.0, one, one)
    levels = study.rng("levels").permuted(np.tile(np.linspace(-1, 1, study.sites), (3, 1)), axis=1)
    white, smooth, global_signal = (float(x) for x in np.exp(_SPREAD * levels[:, site]))
    fields = smooth_fields(study.rng("site", site), 2, fwhm=50)
    noise_gain, baseline = np.exp(_PATTERN * fields)
    return Site(study.site_trs[site], white, smooth, global_signal, noise_gain, baseline)
