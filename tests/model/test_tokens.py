"""Fixed positions are those of the reference."""

import numpy as np
import pytest

from fmrifm.model.tokens import sincos_table
from tests.model.toy import options


@pytest.mark.parametrize(
    "key, kwargs",
    [
        ("sincos3d/16_2x3x4", {"num_frames": 8, "t_patch": 4}),
        ("sincos2d/16_3x4", {"num_frames": None, "t_patch": 1, "t_pred_stride": 1}),
    ],
)
def test_sincos_tables(golden, key, kwargs):
    found = sincos_table(options(grid=(3, 4), pos_embed="sincos", **kwargs), 16)
    np.testing.assert_array_equal(found, golden("utils")[key].astype(np.float32))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_width_that_does_not_divide_is_cut(slots):
    """Also a clip of one time slot is a clip: a third of the channels is for time."""
    o = options(pos_embed="sincos", num_frames=4 * slots, t_patch=4)
    table = sincos_table(o, 20)  # 8 channels an axis, 24 in all
    assert table.shape == (slots * 24, 20)
    np.testing.assert_array_equal(table[:24, :8], np.repeat([0.0, 1.0], 4)[None].repeat(24, 0))
    np.testing.assert_allclose(table[:, 16], np.tile(np.sin(np.arange(6)), 4 * slots), rtol=1e-6)
