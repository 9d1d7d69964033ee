"""Laws of masking: counts and chances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.model.masking import clip_keys, draw_queries, draw_visible
from tests.model.toy import keys, options, toy_map

PATCHES = toy_map().n_patches
INDEX = toy_map().patch_index


def draw(o, clips, has_data=None):
    """Visible tokens and queries of many clips, every token with a pixel to predict."""
    if has_data is None:
        has_data = np.ones((clips, PATCHES * o.slots), bool)

    @jax.jit
    def masks(keys_B, has_data_BxM):
        visible = draw_visible(keys_B, has_data_BxM, INDEX, o)
        return visible, draw_queries(keys_B, visible, has_data_BxM, o)

    return jax.device_get(masks(keys(clips), jnp.asarray(has_data)))


def marked(index_BxK, count: int) -> np.ndarray:
    found = np.zeros((len(index_BxK), count), bool)
    np.put_along_axis(found, index_BxK, True, axis=1)
    return found


@pytest.mark.parametrize("square", [0, 4, 6])
@pytest.mark.parametrize("masking", ["tube", "random"])
def test_every_token_is_visible_or_predicted_once(masking, square):
    o = options(masking=masking, mask_patch_size=square)
    visible, queries = draw(o, 50)
    both = np.sort(np.concatenate([visible, queries], axis=1), axis=1)
    np.testing.assert_array_equal(both, np.tile(np.arange(PATCHES * o.slots), (50, 1)))
    assert visible.shape[1] == o.visible_count * (o.slots if masking == "tube" else 1)
    assert np.all(np.diff(visible, axis=1) > 0) and np.all(np.diff(queries, axis=1) > 0)


def test_tubes_are_constant_in_time():
    o = options()
    for index in draw(o, 50):
        slot, patch = np.divmod(index, PATCHES)
        patch = patch.reshape(50, o.slots, -1)
        assert np.all(patch[:, 0] == patch[:, 1]) and np.all(np.diff(slot, axis=1) >= 0)


def test_visible_counts_are_those_of_the_recipe(golden):
    data = golden("utils")
    for grid, key in (((14, 35), "len_keep/490"), ((56, 35), "len_keep/1960")):
        ours = [options(grid=grid, mask_ratio=r).visible_count for r in data["len_keep/ratio"]]
        np.testing.assert_array_equal(ours, data[key])


def assert_even(chosen: np.ndarray, clips: int, share: float) -> None:
    deviation = np.sqrt(clips * share * (1 - share))
    assert np.all(np.abs(chosen - clips * share) < 4.5 * deviation)


@pytest.mark.parametrize("masking", ["tube", "random"])
def test_every_token_is_equally_likely(masking):
    o, clips = options(masking=masking, pred_mask_ratio=0.8), 10_000
    tokens = PATCHES * o.slots
    visible, queries = draw(o, clips)
    assert_even(marked(visible, tokens).sum(0), clips, visible.shape[1] / tokens)
    assert queries.shape[1] == o.query_limit == int((1 - 0.8) * 48)
    assert_even(marked(queries, tokens).sum(0), clips, o.query_limit / tokens)
    assert not (marked(visible, tokens) & marked(queries, tokens)).any()


def test_squares_are_shown_whole():
    """All but the one that fills the count up."""
    o = options(mask_patch_size=4, mask_ratio=0.5)
    visible, _ = draw(o, 200)
    shown = marked(visible, PATCHES * o.slots)[:, :PATCHES]
    rows, columns = np.divmod(INDEX, o.grid[1])
    square = rows // 2 * 3 + columns // 2
    share = np.stack([shown[:, square == s].mean(1) for s in np.unique(square)])
    assert np.all(((share > 0) & (share < 1)).sum(0) <= 1)
    assert np.all(shown.sum(1) == o.visible_count)
    assert_even((share == 1).sum(1), 200, (share == 1).mean())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=PATCHES, max_size=PATCHES), st.integers(0, 2**32 - 1))
def test_empty_patches_are_taken_only_when_data_run_out(present, word):
    o = options(pred_mask_ratio=0.8)
    has_data = np.tile(np.array(present), (1, o.slots))
    key = clip_keys(jax.random.key(0), np.array([[word, 0]], np.uint32))
    visible = np.asarray(draw_visible(key, jnp.asarray(has_data), INDEX, o))
    assert has_data[0, visible[0]].sum() == min(visible.shape[1], has_data.sum())
    queries = np.asarray(draw_queries(key, jnp.asarray(visible), jnp.asarray(has_data), o))
    left = has_data.sum() - has_data[0, visible[0]].sum()
    assert has_data[0, queries[0]].sum() == min(o.query_limit, left)


def test_wrong_squares_are_refused():
    with pytest.raises(InputError, match="mask_patch_size=3 must be a multiple"):
        options(mask_patch_size=3)
    with pytest.raises(InputError, match="these are 1 x 512"):
        options(patch_shape=(1, 512), mask_patch_size=2)
