"""Z-scoring, resampling and the cast, against the reference and by their laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import signal

from data_tools.errors import InputError
from data_tools.preprocess import is_constant, resample, to_float16, zscore

_series = arrays(np.float64, (24, 3), elements=st.floats(-1e3, 1e3, width=32))
_trs = st.sampled_from([0.72, 0.735, 0.8, 1.4, 2.0])


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


@settings(max_examples=25, deadline=None)
@given(_series, st.floats(0.5, 20), st.floats(-1e3, 1e3))
def test_zscore_ignores_scale_and_shift(x, scale, shift):
    z, mean, std = zscore(x)
    varies = x.std(0) > 1e-3
    again = zscore(scale * x + shift)[0]
    np.testing.assert_allclose(again[:, varies], z[:, varies], atol=1e-3)
    np.testing.assert_allclose(z[:, varies].std(0), 1, atol=1e-5)
    np.testing.assert_allclose((z * std + mean)[:, varies], x[:, varies], atol=1e-2, rtol=1e-5)


def test_zscore_of_constant_columns_is_zero():
    x = np.random.default_rng(0).normal(size=(50, 4)) * (1, 0, 1e-8, 1e-3) + (0, 7, 7, 7)
    z, mean, std = zscore(x)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(is_constant(x), [False, True, True, False])
    assert not z[:, 1:3].any() and not mean[1:3].any() and not std[1:3].any()
    np.testing.assert_allclose(z[:, 3].std(), 1, atol=1e-5)


def test_short_run_is_filtered_or_refused():
    assert np.isfinite(resample(np.random.default_rng(0).normal(size=(12, 2)), 0.72, 1.0)).all()
    with pytest.raises(InputError, match="too short"):
        resample(np.zeros((3, 2)), 0.72, 1.0)


@pytest.mark.parametrize(
    "value, word", [(np.nan, "NaN"), (np.inf, "inf"), (-100.0, "100"), (1e5, "100,000")]
)
def test_spikes_are_refused(value, word):
    frames = np.zeros((3, 4), np.float32)
    assert to_float16(frames).dtype == np.float16
    frames[1, 2] = value
    with pytest.raises(InputError, match=f"sub-01 has a largest value of {word} "):
        to_float16(frames, "sub-01")
