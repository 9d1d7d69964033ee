"""Confounds of a run in the columns of fMRIPrep (its documentation, "Outputs: Confounds").

Motion, DVARS and the global signal are those of the run; tissue signals and components, which need
a volume, are made up of what they hold in real data: the global signal, motion and slow noise.
"""

import itertools
import math

import numpy as np

from data_tools.simulation.motion import PARAMETERS
from data_tools.simulation.runs import SimulatedRun, slow_fluctuations

SETTLING = 1.15  # factor of the first frame, before the magnetisation has settled

_CUTOFF = 128.0  # seconds, the slowest drift that cosines model
_OUTLIER_MM, _OUTLIER_DVARS = 0.5, 1.5  # beyond either a frame is an outlier, as fMRIPrep has it
_N_COMPONENTS = 6


def confound_table(run: SimulatedRun, rng: np.random.Generator) -> list[dict[str, str]]:
    """The rows of `*_desc-confounds_timeseries.tsv`, "n/a" where a frame has no value.

    Args:
      run: the run as it is written, its first frame brightened by SETTLING.
      rng: source of what is made up.
    """
    columns = {name: _text(values) for name, values in confounds(run, rng).items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def confounds(run: SimulatedRun, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of (T,) float64, NaN where a frame has no value."""
    n_frames = len(run.series)
    cortex = run.series[:, run.series.any(0)].mean(1, dtype=np.float64)
    level = cortex[1:].mean()
    shared = np.concatenate([[0.0], cortex[1:] - level])
    moved = run.motion.displacement - run.motion.displacement.mean()
    noise = slow_fluctuations(rng, 2 + _N_COMPONENTS, n_frames, run.tr).astype(np.float64)
    csf = 1.4 * level + 0.5 * shared + 80 * (noise[:, 0] + 2 * moved)
    white_matter = 0.9 * level + 0.6 * shared + 30 * noise[:, 1]
    csf[0], white_matter[0] = csf[0] * SETTLING, white_matter[0] * SETTLING

    columns: dict[str, np.ndarray] = {}
    columns |= _expand("global_signal", cortex)
    columns |= _expand("csf", csf)
    columns |= _expand("white_matter", white_matter)
    columns |= _dvars(run)
    columns["framewise_displacement"] = _without_first(run.motion.displacement)
    mixed = noise[:, 2:] + shared[:, None] / shared.std() * rng.normal(0, 0.5, _N_COMPONENTS)
    components = np.zeros((n_frames, _N_COMPONENTS))  # 0 in frames that are not steady
    components[1:] = np.linalg.qr(mixed[1:] - mixed[1:].mean(0))[0]
    columns |= {f"a_comp_cor_{i:02d}": column for i, column in enumerate(components.T)}
    columns |= {f"cosine{i:02d}": column for i, column in enumerate(_cosines(n_frames, run.tr))}
    for name, column in zip(PARAMETERS, run.motion.parameters.T, strict=True):
        columns |= _expand(name, column)
    columns |= {"non_steady_state_outlier00": np.arange(n_frames) == 0}
    return columns | _outliers(columns)


def _expand(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """A column, its change since the frame before, and the squares of both."""
    change = np.diff(values, prepend=np.nan)
    return {
        name: values,
        f"{name}_derivative1": change,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": change**2,
    }


def _dvars(run: SimulatedRun) -> dict[str, np.ndarray]:
    """Root mean square of the change of the signal over vertices, and relative to the usual."""
    changes = [np.mean((b - a) ** 2) for a, b in itertools.pairwise(run.series)]
    dvars = np.sqrt(np.array([np.nan, *changes]))
    return {"std_dvars": dvars / np.nanmedian(dvars), "dvars": dvars}


def _cosines(n_frames: int, tr: float) -> np.ndarray:
    """(cosines, T) slow drifts of unit norm, a discrete cosine transform without its constant."""
    order = math.floor(2 * n_frames * tr / _CUTOFF)
    places = np.pi * (np.arange(n_frames) + 0.5) / n_frames
    return np.sqrt(2 / n_frames) * np.cos(np.outer(np.arange(1, order + 1), places))


def _outliers(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A column for each frame with much motion or a jump of the signal, 1 there and else 0."""
    frames = (columns["framewise_displacement"] > _OUTLIER_MM) | (
        columns["std_dvars"] > _OUTLIER_DVARS
    )
    return {
        f"motion_outlier{i:02d}": np.arange(len(frames)) == frame
        for i, frame in enumerate(np.flatnonzero(frames))
    }


def _without_first(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[np.nan], values[1:]])


def _text(values: np.ndarray) -> list[str]:
    return ["n/a" if np.isnan(value) else f"{value:.8g}" for value in values.astype(np.float64)]
