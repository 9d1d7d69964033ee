"""Figures of runs against what mathematics says of them, and what is typical and what is not."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from data_tools.inspect.typical import RANGES, far_from_typical, median_figures
from data_tools.readers.surface_run import SurfaceRun
from data_tools.readers.surfaces import read_surface_run
from data_tools.simulate.runs import draw_run
from data_tools.simulate.study import Study
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.quality import FRAME_MEASURES, frame_figures, global_signal_spikes
from data_tools.timeseries.recipe import Recipe
from data_tools.timeseries.zscore import zscore
from tests.data_tools.store.small_stores import write_small_store

SQUARE = Geometry("square", np.ones((64, 64), bool), (16, 16), pixel_size=1.2)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def figures_of(path: Path, images_TxHxW: np.ndarray, geometry=SQUARE, tr=1.0, missing=None):
    frames = geometry.to_patches(images_TxHxW.astype(np.float32))
    fields = {"frames_TxNxP": frames, "missing": missing}
    return frame_figures(write_small_store(path, {"a": fields}, geometry=geometry, tr=tr), 0)


def test_spikes_of_the_global_signal(rng):
    series = (10_000 + 100 * rng.standard_normal((300, 500))).astype(np.float32)
    assert global_signal_spikes(series) == 0
    series[100] += 60  # there and back
    series[200:] -= 60  # there for good
    assert global_signal_spikes(series) == 3
    with_wall = np.concatenate([series, np.zeros_like(series)], axis=1)
    assert global_signal_spikes(with_wall) == 3
    without_global = series - series.mean(1, keepdims=True)
    assert global_signal_spikes(without_global) == 0  # what is left of it is rounding
    still = np.full((50, 20), 5, np.float32)
    assert global_signal_spikes(still) == global_signal_spikes(still[:2]) == 0
    still[30] += 1  # most changes are 0, and so is their median deviation
    assert global_signal_spikes(still) == 2


def test_figures_in_time(tmp_path, rng):
    """White noise, an autoregression, and an oscillation, of which the figures are known."""
    white = rng.standard_normal((400, 64, 64))
    figures = figures_of(tmp_path / "white", white)
    assert set(figures) == set(FRAME_MEASURES)
    bands = [figures[f"power_{name}"] for name in ("slow", "blood", "middle", "fast")]
    assert sum(bands) == pytest.approx(1, abs=1e-5)
    assert bands == pytest.approx([0.02, 0.18, 0.2, 0.6], abs=0.02)
    assert abs(figures["autocorrelation"]) < 0.02 and figures["spread"] == pytest.approx(
        1, abs=0.01
    )

    memory = scipy.signal.lfilter([1], [1, -0.7], white, axis=0)
    figures = figures_of(tmp_path / "memory", memory)
    assert figures["autocorrelation"] == pytest.approx(0.7, abs=0.03)

    phase = rng.uniform(0, 2 * np.pi, (64, 64))
    wave = np.sin(2 * np.pi * 0.05 * np.arange(400)[:, None, None] + phase)
    assert figures_of(tmp_path / "wave", wave)["power_blood"] > 0.99
    # The same frames at 3 s each oscillate at a third of the rate, and know no 0.2 Hz.
    slow = figures_of(tmp_path / "slow", wave, tr=6.0)
    assert slow["power_slow"] > 0.99 and "power_fast" not in slow


@pytest.mark.parametrize("fwhm", [3.0, 6.0])
def test_smoothness_is_that_of_the_kernel(tmp_path, rng, fwhm):
    sigma = fwhm / 1.2 / np.sqrt(8 * np.log(2))
    images = rng.standard_normal((40, 64, 64))
    images = scipy.ndimage.gaussian_filter(images, (0, sigma, sigma), mode="wrap")
    figures = figures_of(tmp_path / "store", images / images.std())
    assert figures["fwhm"] == pytest.approx(fwhm, rel=0.08)
    expected = np.exp(-(8**2) / (4 * sigma**2))  # 8 pixels of 1.2 mm apart
    assert figures["far_correlation"] == pytest.approx(expected, abs=0.05)


def test_missing_pixels_and_other_spaces(tmp_path, rng):
    """What a run does not have is left out: pixels, frames, a grid in millimetres."""
    images = scipy.ndimage.gaussian_filter(rng.standard_normal((60, 64, 64)), (1, 2, 2))
    missing = np.flatnonzero(SQUARE.to_patches(np.arange(64) < np.full((64, 64), 20)))
    gap = np.where(np.arange(64) < 20, 0, images)
    masked = dataclasses.replace(SQUARE, mask=np.broadcast_to(np.arange(64) >= 20, (64, 64)))
    figures = figures_of(tmp_path / "missing", gap, missing=missing)
    assert figures == pytest.approx(figures_of(tmp_path / "masked", gap, masked), rel=0.05)
    assert figures["fwhm"] < 1.2 * figures_of(tmp_path / "whole", images)["fwhm"]

    parcels = Geometry("parcels", np.ones((40, 1), bool), (1, 1))
    signals = rng.standard_normal((120, 40, 1))
    assert not {"fwhm", "far_correlation"} & set(figures_of(tmp_path / "p", signals, parcels))
    assert set(figures_of(tmp_path / "single", signals[:1], parcels)) == {"spread"}
    still = figures_of(tmp_path / "still", np.zeros((40, 64, 64)))
    assert still == {"spread": 0}


@pytest.fixture(scope="module")
def simulated() -> dict[float, np.ndarray]:
    """A run of a simulated subject at two TRs: vertices before z-scoring."""
    runs = {}
    for tr in (0.72, 2.0):
        study = Study(subjects=1, frames=round(130 / tr), tr=tr)
        runs[tr] = draw_run(study, 0, "rest", 1).series
    return runs


class InMemory:
    """What `frame_figures` asks of a store, without the disk."""

    tr = 1.0

    def __init__(self, frames_TxNxP: np.ndarray):
        self.geometry = standard_flat_map("fsaverage5").geometry
        self.runs = [{"n_frames": len(frames_TxNxP)}]
        self._frames = frames_TxNxP * self.geometry.patch_mask

    def read(self, run: int, start: int, n_frames: int) -> np.ndarray:
        return self._frames[start : start + n_frames]

    def valid(self, run: int) -> np.ndarray:
        return self.geometry.patch_mask


def converted(series_TxX: np.ndarray, tr: float) -> np.ndarray:
    """(T, N, P) frames of 1 s."""
    run = SurfaceRun(*np.split(series_TxX.astype(np.float32), 2, axis=1), tr)
    return process_run(run, standard_flat_map("fsaverage5"), Recipe()).frames


def judged(frames_TxNxP: np.ndarray) -> set[str]:
    return far_names(frame_figures(InMemory(frames_TxNxP.astype(np.float32)), 0))


def far_names(figures: dict[str, float]) -> set[str]:
    text = " ".join(far_from_typical(figures)).lower()
    names = {name for name in figures if f"{FRAME_MEASURES[name].label} ".lower() in text}
    out = {name for name, (low, high) in RANGES.items() if not low <= figures[name] <= high}
    assert names == out
    return names


def test_simulated_runs_are_typical_and_spoilt_ones_are_not(rng, simulated):
    frames = converted(simulated[0.72], 0.72).astype(np.float32)
    assert judged(frames) == set()
    assert judged(converted(simulated[2.0], 2.0)) == set()

    assert judged(rng.permutation(frames)) >= {"autocorrelation", "power_fast"}
    low_pass = scipy.signal.butter(4, 0.1, fs=1.0, output="sos")
    filtered = scipy.signal.sosfiltfilt(low_pass, frames, axis=0)
    assert judged(filtered) == {"autocorrelation", "power_middle", "power_fast"}
    assert judged(rng.standard_normal(frames.shape, np.float32)) >= {"fwhm", "autocorrelation"}
    assert judged(3 * frames) == {"spread"}
    # Vertices of another mesh, or in another order.
    kept = np.flatnonzero(standard_flat_map("fsaverage5").kept)
    mixed = np.zeros_like(simulated[0.72])
    mixed[:, rng.permutation(kept)] = simulated[0.72][:, kept]
    assert judged(converted(mixed, 0.72)) == {"far_correlation"}


def test_a_real_run(rng):
    """It comes low-passed, which is found; with noise in its place it is typical."""
    spec = importlib.util.find_spec("brainspace")
    if spec is None:
        pytest.skip("the extra `demo` is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "preprocessing"
    run = read_surface_run(folder / "sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.lh.mgz")
    series = np.concatenate([run.left, run.right], axis=1)[:120]
    found = judged(converted(series, 1.4))
    assert found == {"autocorrelation", "power_middle", "power_fast"}
    z = zscore(series)[0]
    z = (z + rng.standard_normal(z.shape)) * (z.std(0) > 0)
    assert judged(converted(z, 1.4)) == set()


def test_sentences_and_medians():
    figures = {"autocorrelation": 0.02, "power_fast": 0.6, "fwhm": 5.0}
    (sentence,) = far_from_typical(figures)
    assert sentence.startswith("Lag-1 autocorrelation 0.02 (typical 0.1 to 0.96) and power above")
    assert (
        sentence.endswith("?")
        and " are far from typical: are the frames in their order" in sentence
    )
    assert far_from_typical(figures, tr=2.0) == []  # another TR is not compared in time
    assert far_from_typical({"fwhm": 0.5}, tr=2.0)[0].startswith("Spatial smoothness, FWHM")
    assert median_figures([{"fwhm": 1.0}, {"fwhm": 3.0}, {"spread": 2.0}]) == {
        "fwhm": 2.0,
        "spread": 2.0,
    }
