"""Head motion: six parameters of a rigid body in time, and what they do to the signal.

Letters: T frames, X vertices.
"""

import dataclasses
import functools

import numpy as np
import scipy

from data_tools.simulate.brain import mid_surface
from data_tools.timeseries.confounds import PARAMETERS as PARAMETERS

# Head radius at which rotations count as displacement, in mm (Power et al., NeuroImage 59, 2012).
_RADIUS = 50.0

# In units of a subject's own displacement: what a second of drift adds to each parameter, the mean
# of a jerk, and the seconds between jerks. Together they make a mean displacement of 1 at 1 s.
_DRIFT, _JERK, _PAUSE = 0.16, 1.0, 40.0

# Artefacts at a strength of 1, in standard deviations of ongoing activity for each mm: moved edges,
# and the drop of signal everywhere, which takes seconds to recover.
_EDGE, _DROP, _RECOVERY = 2.5, 2.5, 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Motion:
    """Head motion of one run.

    Attributes:
      parameters: (T, 6) translations in mm and rotations in rad, named by PARAMETERS.
      steps: (T, 6) changes of the parameters since the frame before in mm, 0 in the first frame;
        rotations count as on a sphere of 50 mm.
      displacement: (T,) framewise displacement in mm: the sum of the absolute steps.
    """

    parameters: np.ndarray
    steps: np.ndarray
    displacement: np.ndarray


def draw_motion(rng: np.random.Generator, displacement: float, n_frames: int, tr: float) -> Motion:
    """Head motion of a run of T frames: slow drift about where the head lies, now and then a jerk.

    `displacement` is the subject's mean framewise displacement in mm at a TR of 1 s, roughly.
    """
    pushes = _DRIFT * np.sqrt(tr) * rng.standard_normal((n_frames, 6))
    n_jerks = rng.poisson(n_frames * tr / _PAUSE)
    sizes = _JERK * rng.exponential(size=(n_jerks, 1)) * rng.standard_normal((n_jerks, 6))
    begin = rng.integers(0, n_frames, n_jerks)
    end = begin + 1 + np.rint(rng.exponential(2.0, n_jerks) / tr).astype(int)
    np.add.at(pushes, begin, sizes)
    returns = end < n_frames
    np.add.at(pushes, end[returns], -0.7 * sizes[returns])
    # Without something that pulls the head back it would drift off.
    memory = float(np.exp(-tr / 60))
    place = displacement * scipy.signal.lfilter([1.0], [1.0, -memory], pushes, axis=0)
    place -= place[0]
    steps = np.diff(place, axis=0, prepend=0.0)
    parameters = place / np.repeat([1.0, _RADIUS], 3)
    return Motion(parameters, steps, np.abs(steps).sum(1))


def motion_courses(motion: Motion, tr: float) -> np.ndarray:
    """(T, 7) float32 time courses of artefacts: of the six maps of edges, and everywhere."""
    memory = float(np.exp(-tr / _RECOVERY))
    drop = scipy.signal.lfilter([1.0], [1.0, -memory], motion.displacement)
    drop -= drop.mean()
    return np.column_stack([_EDGE * motion.steps, -_DROP * drop]).astype(np.float32)


@functools.cache
def edge_maps() -> np.ndarray:
    """(6, X) float32 of unit mean square: where a step of each parameter moves the brain's edge.

    The brain is taken for an ellipsoid. Signal rises where its edge moves outwards and falls where
    it moves inwards; deep places, such as the insula, have no edge.
    """
    points = mid_surface() - mid_surface().mean(0)
    axes = np.abs(points).max(0)
    depth = np.linalg.norm(points / axes, axis=1)
    rim = np.clip((depth - 0.5) / 0.5, 0, 1)
    outwards = points / axes**2
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    turns = [np.cross(axis, points / _RADIUS) for axis in np.eye(3)]
    moves = [outwards.T, [(turn * outwards).sum(1) for turn in turns]]
    maps = rim * np.concatenate(moves)
    return (maps / np.sqrt((maps**2).mean(1, keepdims=True))).astype(np.float32)
