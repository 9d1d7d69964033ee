"""Runs of simulated brains.

A run is ongoing activity, in units of its standard deviation, plus what the task evokes:

    ongoing = networks + smooth background + global signal + smooth noise + white noise
    evoked  = effect * subject's effect * (response to each condition x its activation pattern)

Nothing but `evoked` depends on the task, so an effect of 0 leaves no trace of it. Sites weigh the
parts of ongoing activity differently, and head motion adds artefacts where the study has them.
Letters: T frames, X vertices (20,484, left then right cortex).
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

from data_tools.simulate.brain import (
    N_BACKGROUND,
    N_NETWORKS,
    N_SOURCES,
    N_VERTICES,
    Subject,
    cortex,
    draw_group,
    draw_subject,
    smooth,
    smooth_fields,
)
from data_tools.simulate.design import draw_events, evoked_responses
from data_tools.simulate.motion import Motion, draw_motion, edge_maps, motion_courses
from data_tools.simulate.study import Study

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


# Shares of the variance of ongoing activity. At a TR of 1 s they give a lag-1 autocorrelation near
# 0.7 and one between mirrored places near 0.5, as in lightly smoothed surface data.
SHARES = {"networks": 0.38, "background": 0.22, "global": 0.10, "smooth": 0.18, "white": 0.12}

# Evoked response where a pattern is strongest at an effect of 1, in standard deviations of ongoing
# activity; the table of accuracies in simulate/__main__.py depends on it.
PEAK = 1.2

_VERTEX_BLOCK = 1024  # noise of so many vertices stays in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedRun:
    """One run of a subject.

    Attributes:
      subject: who lay in the scanner.
      task: "rest", "block" or "event".
      number: of the run of this task, from 1.
      series: (T, X) float32 signal in scanner units, 0 on the medial wall.
      tr: seconds from frame to frame.
      events: BIDS events, none at rest.
      motion: of the head.
    """

    subject: Subject
    task: str
    number: int
    series: np.ndarray
    tr: float
    events: list[dict[str, Any]]
    motion: Motion

    @property
    def key(self) -> str:
        return f"sub-{self.subject.name}_task-{self.task}_run-{self.number:02d}"


# On several cores BLAS sums in another order, which the last bits show.
@threadpool_limits.wrap(limits=1, user_api="blas")
def draw_run(
    study: Study,
    index: int,
    task: str,
    number: int,
    *,
    tr: float | None = None,
    onset_step: float = 0.0,
) -> SimulatedRun:
    """A run of a subject: of task "rest" or that of the study, and its number from 1.

    Args:
      index: of the subject, from 0.
      tr: seconds from frame to frame; None takes that of the subject's site.
      onset_step: seconds; events begin at multiples of it, 0 for any time.
    """
    group, subject = draw_group(study), draw_subject(study, index)
    site = draw_site(study, subject.site)
    tr = tr or site.tr
    what, n_frames = (subject.name, task, number), study.frames_at(tr)
    motion = draw_motion(study.rng("motion", *what), subject.displacement, n_frames, tr)
    series = _ongoing(study, subject, site, motion, tr, study.rng("run", *what))
    events = []
    if task != "rest":
        rng, names = study.rng("events", *what), study.condition_names
        events = draw_events(rng, study.design, names, study.seconds)
        for event in events if onset_step else ():
            event["onset"] = math.floor(event["onset"] / onset_step) * onset_step
        gains = np.exp(rng.normal(0.0, 0.3, len(events)))  # no two presentations are alike
        responses = evoked_responses(events, gains, names, tr, n_frames, subject.delay)
        series += (PEAK * study.effect * subject.effect) * (responses @ subject.patterns)
    # A standard deviation of ongoing activity is 1 % of the mean image, as at 3 T.
    series *= 0.01
    series += 1.0
    series *= group.baseline * site.baseline
    series[:, ~cortex()] = 0
    return SimulatedRun(subject, task, number, series, tr, events, motion)


def slow_fluctuations(
    rng: np.random.Generator, n_series: int, n_frames: int, tr: float
) -> np.ndarray:
    """(T, series) float32 spontaneous courses of variance 1: 1/f activity seen through the blood.

    The power of activity falls as 1/f above 0.01 Hz; the canonical response, whose transform is
    known in closed form, removes what is above 0.1 Hz, and a high-pass what is below 0.008 Hz.
    """
    # Filtering by Fourier transform is circular: the surplus is cut so that ends do not meet.
    n_drawn = scipy.fft.next_fast_len(n_frames + round(100 / tr), real=True)
    frequency = np.abs(np.fft.fftfreq(n_drawn, tr))
    decay = 1 / (1 + 2j * np.pi * frequency)
    response = np.abs(decay**6 - decay**16 / 6)
    amplitude = response * frequency / np.hypot(frequency, 0.008) / np.hypot(frequency, 0.01) ** 0.5
    amplitude /= np.sqrt(np.mean(amplitude**2))
    spectrum = scipy.fft.rfft(rng.standard_normal((n_drawn, n_series)), axis=0)
    spectrum *= amplitude[: len(spectrum), None]
    return scipy.fft.irfft(spectrum, n_drawn, axis=0)[:n_frames].astype(np.float32)


def _ongoing(
    study: Study,
    subject: Subject,
    site: Site,
    motion: Motion,
    tr: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """(T, X) float32 activity without a task, of variance near 1 but for artefacts."""
    group, size = draw_group(study), (len(motion.displacement), tr)
    share = {name: np.float32(np.sqrt(value)) for name, value in SHARES.items()}
    sources = slow_fluctuations(rng, N_SOURCES + N_NETWORKS, *size)
    mixing = (share["networks"] * subject.mixing).astype(np.float32)
    # Everything slow is a product of time courses and maps: one matrix product makes it.
    courses = [
        sources @ mixing.T,
        share["background"] * slow_fluctuations(rng, N_BACKGROUND, *size),
        site.global_signal * share["global"] * slow_fluctuations(rng, 1, *size),
    ]
    maps = [subject.networks, group.background, group.global_gain[None]]
    if study.motion:
        courses.append(study.motion * motion_courses(motion, tr))
        maps += [edge_maps(), group.global_gain[None]]
    activity = np.concatenate(courses, axis=1) @ np.concatenate(maps)

    noise = smooth(rng.standard_normal((2 * N_VERTICES, size[0]), np.float32), 8.0)
    strength = site.smooth * share["smooth"] / noise.std()
    white = site.white * share["white"]
    gain = group.noise_gain * site.noise_gain
    memory = float(np.exp(-tr))  # first-order autoregression, 0.37 at a TR of 1 s
    for start in range(0, 2 * N_VERTICES, _VERTEX_BLOCK):
        block = slice(start, start + _VERTEX_BLOCK)
        piece = strength * noise[block]
        piece[:, 1:] *= float(np.sqrt(1 - memory**2))
        piece = scipy.signal.lfilter(np.float32([1]), np.float32([1, -memory]), piece)
        piece += white * rng.standard_normal(piece.shape, np.float32)
        piece *= gain[block, None]
        activity[:, block] += piece.T
    return activity
