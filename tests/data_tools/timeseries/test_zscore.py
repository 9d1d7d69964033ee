"""Z-scoring by its laws and against NumPy, and the cast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_tools.errors import InputError
from data_tools.timeseries.zscore import mean_and_std, to_float16, zscore

_series = arrays(np.float64, (24, 3), elements=st.floats(-1e3, 1e3, width=32))


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
    np.testing.assert_array_equal(mean_and_std(x)[1] == 0, [False, True, True, False])
    assert not z[:, 1:3].any() and not mean[1:3].any() and not std[1:3].any()
    np.testing.assert_allclose(z[:, 3].std(), 1, atol=1e-5)


def test_zscore_of_scanner_units_keeps_every_digit():
    """Large means, a first frame before the steady state, columns past a block's end."""
    rng = np.random.default_rng(0)
    x = (10_000 + rng.normal(size=(300, 1100)) * rng.uniform(1, 300, 1100)).astype(np.float32)
    x[0] *= 1.3
    exact = x.astype(np.float64)
    z, mean, std = zscore(x)
    np.testing.assert_allclose(z, (exact - exact.mean(0)) / exact.std(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(mean, exact.mean(0).astype(np.float32))
    np.testing.assert_allclose(std, exact.std(0), rtol=1e-6)
    np.testing.assert_array_equal(mean_and_std(x), [mean, std])
    whole = x.astype(np.int32)
    np.testing.assert_array_equal(zscore(whole)[0], zscore(whole.astype(np.float64))[0])


@pytest.mark.parametrize(
    "value, word", [(np.nan, "NaN"), (np.inf, "inf"), (-100.0, "100"), (1e5, "100,000")]
)
def test_spikes_are_refused(value, word):
    frames = np.zeros((3, 4), np.float32)
    assert to_float16(frames).dtype == np.float16
    frames[1, 2] = value
    with pytest.raises(InputError, match=f"sub-01 has a largest value of {word} "):
        to_float16(frames, "sub-01")
