"""Resampling against the reference and SciPy, and by its laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import interpolate, signal

from data_tools.errors import InputError
from data_tools.timeseries.resampling import n_resampled, resample

_series = arrays(np.float64, (24, 3), elements=st.floats(-1e3, 1e3, width=32))
_trs = st.sampled_from([0.72, 0.735, 0.8, 1.4, 2.0])
_kinds = st.sampled_from(["pchip", "cubic"])


@pytest.mark.parametrize(
    "name, tr, kind",
    [
        ("fm_0.72_1.0", 0.72, "pchip"),
        ("fm_1.6_1.0", 1.6, "pchip"),
        ("cm_0.72_1.0", 0.72, "cubic"),
        ("cm_0.72_1.0_pchip", 0.72, "pchip"),
        ("cm_1.6_1.0", 1.6, "cubic"),
    ],
)
def test_agrees_with_reference(golden, name, tr, kind):
    case = golden("utils")
    # The older release extrapolates one row past the last sample; ours stops before.
    expected = case[f"resample/{name}"][:95]
    result = resample(case["resample/in"], tr, 1.0, kind)
    np.testing.assert_allclose(result, expected, atol=1e-12 * np.abs(expected).max())


def test_linear_fits_the_span():
    """As published models were fed: half-pixel centres, ends held, no filter."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    np.testing.assert_allclose(
        resample(x, 2.0, 1.0, "linear")[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    )
    np.testing.assert_allclose(resample(x, 1.0, 2.0, "linear")[:, 0], [0.5, 2.5])
    assert resample(x, 1.05, 1.0, "linear") is x
    assert len(resample(np.zeros((100, 1)), 0.735, 1.0, "linear")) == 74


@settings(max_examples=25, deadline=None)
@given(_series, _series, _trs, st.floats(-3, 3))
def test_cubic_is_linear(x, y, tr, factor):
    both = resample(x + factor * y, tr, 1.0, "cubic")
    apart = resample(x, tr, 1.0, "cubic") + factor * resample(y, tr, 1.0, "cubic")
    np.testing.assert_allclose(both, apart, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(_series, st.sampled_from([1.0, 1.4, 2.0]))
def test_pchip_upsampling_keeps_range_and_samples(x, tr):
    y = resample(x, tr, 0.5, "pchip")
    assert (y.min(0) >= x.min(0) - 1e-9).all() and (y.max(0) <= x.max(0) + 1e-9).all()
    if tr == 2.0:
        np.testing.assert_allclose(y[::4], x, atol=1e-9)


def test_downsampling_does_not_alias():
    time = np.arange(400) * 0.5
    slow, fast = np.sin(2 * np.pi * 0.05 * time), np.sin(2 * np.pi * 0.7 * time)
    y = resample(np.stack([slow, fast], 1), 0.5, 1.0)
    assert signal.detrend(y[20:-20, 0]).std() > 0.65
    assert y[20:-20, 1].std() < 1e-3


def _with_scipy(x: np.ndarray, tr: float, kind: str) -> np.ndarray:
    """To 1 s in float64, by the functions whose matrices ours are."""
    x, times = x.astype(np.float64), tr * np.arange(len(x))
    if tr < 1:
        sos = signal.cheby1(8, 0.05, 0.8 * tr, output="sos")
        pad = min(27, len(x) - 1)
        x = signal.sosfiltfilt(sos, x, axis=0, padtype="even", padlen=pad)
    new_times = np.arange(n_resampled(len(x), tr, 1.0, kind), dtype=float)
    spline = interpolate.PchipInterpolator if kind == "pchip" else interpolate.CubicSpline
    return spline(times, x)(new_times)


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 70), _trs, _kinds, st.integers(0, 99))
def test_agrees_with_scipy(n_frames, tr, kind, seed):
    x = np.random.default_rng(seed).standard_normal((n_frames, 5), np.float32)
    expected = _with_scipy(x, tr, kind)
    result = resample(x, tr, 1.0, kind)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(resample(x.astype(float), tr, 1.0, kind), expected, atol=1e-11)


@pytest.mark.parametrize("kind", ["pchip", "cubic"])
@pytest.mark.parametrize("n_frames, tr", [(1200, 0.72), (300, 2.0)])
def test_whole_runs_agree_with_scipy(n_frames, tr, kind):
    """So long that the ends of the matrices' rows are cut off."""
    x = np.random.default_rng(0).standard_normal((n_frames, 5), np.float32)
    expected = _with_scipy(x, tr, kind)
    np.testing.assert_allclose(resample(x, tr, 1.0, kind), expected, atol=1e-5)
    np.testing.assert_allclose(resample(x.astype(float), tr, 1.0, kind), expected, atol=1e-11)


@pytest.mark.parametrize("kind", ["pchip", "cubic", "linear"])
@pytest.mark.parametrize("tr", [0.72, 1.4])
def test_large_means_cost_no_digits(tr, kind):
    noise = np.random.default_rng(0).standard_normal((200, 4))
    x = (10_000 + noise).astype(np.float32)
    # Numbers of float32 at 10,000 lie 0.001 apart.
    np.testing.assert_allclose(
        resample(x, tr, 1.0, kind), resample(x.astype(float), tr, 1.0, kind), rtol=0, atol=1.5e-3
    )


@pytest.mark.parametrize("kind", ["pchip", "cubic", "linear"])
def test_columns_are_on_their_own(kind):
    """Wherever they lie among the blocks, in whatever order memory has them."""
    x = np.random.default_rng(0).standard_normal((40, 1100), np.float32)
    order = np.random.default_rng(1).permutation(1100)
    whole = resample(x, 0.72, 1.0, kind)
    for part in (order[:1], order[:30], order):
        for layout in (np.ascontiguousarray, np.asfortranarray):
            result = resample(layout(x[:, part]), 0.72, 1.0, kind)
            np.testing.assert_allclose(result, whole[:, part], atol=1e-5)


def test_pchip_of_steps_and_plateaus():
    """Equal samples, equal and opposite steps, at the ends too, without a division by zero."""
    x = np.random.default_rng(0).integers(-1, 2, (60, 200)).astype(np.float32)
    x[:, :20] = x[:1, :20]
    with np.errstate(all="raise"):
        result = resample(x, 1.4, 1.0, "pchip")
    np.testing.assert_allclose(result, _with_scipy(x, 1.4, "pchip"), atol=1e-6)


def test_short_run_is_filtered_or_refused():
    assert np.isfinite(resample(np.random.default_rng(0).normal(size=(12, 2)), 0.72, 1.0)).all()
    with pytest.raises(InputError, match="too short"):
        resample(np.zeros((3, 2)), 0.72, 1.0)
    with pytest.raises(InputError, match="too short"):
        resample(np.zeros((6, 2)), 0.05, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 60), st.floats(0.3, 3), st.sampled_from(["pchip", "cubic", "linear"]))
def test_length_is_known_before(n_frames, tr, kind):
    assert len(resample(np.zeros((n_frames, 1)), tr, 1.0, kind)) == n_resampled(
        n_frames, tr, 1.0, kind
    )
