"""Laws of masking: counts, chances, and what may influence what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.masking import clip_keys, draw_mask
from fmrifm.model.options import ModelOptions

PATCHES = 20  # cortical ones of the 24 on the grid


def options(**kwargs) -> ModelOptions:
    defaults = dict(
        grid=(4, 6), patch_dim=4, num_frames=8, t_patch=4, embed_dim=16, depth=1, num_heads=2,
        decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, mask_ratio=0.7,
        head_init_scale=1.0,
    )  # fmt: skip
    return ModelOptions(**{**defaults, **kwargs})


def keys(n: int) -> jax.Array:
    words = np.stack([np.arange(n), np.full(n, 7)], 1).astype(np.uint32)
    return clip_keys(jax.random.key(0), words)


@pytest.mark.parametrize("masking", ["tube", "random"])
def test_every_token_is_visible_or_predicted_once(masking):
    o = options(masking=masking)
    mask = draw_mask(keys(50), jnp.ones((50, PATCHES * o.slots), bool), o)
    both = np.sort(np.concatenate(mask, axis=1), axis=1)
    np.testing.assert_array_equal(both, np.tile(np.arange(PATCHES * o.slots), (50, 1)))
    slots = o.slots if masking == "tube" else 1
    assert mask.visible_BxL.shape[1] == o.visible_count * slots
    assert np.all(np.diff(mask.visible_BxL, axis=1) > 0)
    if masking == "tube":
        slot, patch = np.divmod(np.asarray(mask.visible_BxL), PATCHES)
        patch = patch.reshape(50, o.slots, -1)
        assert np.all(patch[:, 0] == patch[:, 1])


def test_visible_counts_are_those_of_the_recipe(golden):
    data = golden("utils")
    for grid, key in (((14, 35), "len_keep/490"), ((56, 35), "len_keep/1960")):
        ours = [options(grid=grid, mask_ratio=r).visible_count for r in data["len_keep/ratio"]]
        np.testing.assert_array_equal(ours, data[key])


def test_every_patch_is_equally_likely():
    o, clips = options(), 20_000
    mask = jax.jit(lambda k: draw_mask(k, jnp.ones((clips, PATCHES * o.slots), bool), o))(
        keys(clips)
    )
    chosen = np.bincount(
        np.asarray(mask.visible_BxL[:, : o.visible_count]).ravel(), minlength=PATCHES
    )
    share = o.visible_count / PATCHES
    deviation = np.sqrt(clips * share * (1 - share))
    assert np.all(np.abs(chosen - clips * share) < 4.5 * deviation)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=PATCHES, max_size=PATCHES), st.integers(0, 2**32 - 1))
def test_empty_patches_are_seen_only_when_data_run_out(present, word):
    o = options()
    has_data = np.tile(np.array(present), (1, o.slots))
    key = clip_keys(jax.random.key(0), np.array([[word, 0]], np.uint32))
    mask = draw_mask(key, jnp.asarray(has_data), o)
    seen = np.array(present)[np.asarray(mask.visible_BxL[0, : o.visible_count])]
    assert seen.sum() == min(o.visible_count, sum(present))


def forward(o, tokens, has_data, mask):
    model = MaskedAutoencoder(o)
    from flax import linen as nn

    params = nn.unbox(init_params(model, jax.random.key(1)))
    place = jnp.arange(tokens.shape[1])
    return lambda x: model.apply({"params": params}, x, has_data, place, mask)


@pytest.mark.parametrize("decoding", ["attn", "cross", "crossreg"])
def test_masked_and_empty_tokens_influence_nothing(decoding):
    o = options(decoding=decoding, reg_tokens=2)
    count = PATCHES * o.slots
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, count, o.token_dim)), jnp.float32)
    has_data = np.ones((2, count), bool)
    has_data[1, : PATCHES - 3] = has_data[1, PATCHES : 2 * PATCHES - 3] = (
        False  # three patches left
    )
    mask = draw_mask(keys(2), jnp.asarray(has_data), o)
    run = forward(o, tokens, jnp.asarray(has_data), mask)

    def output(x):
        preds, embeddings = run(x)
        return jnp.sum(preds**2) + sum(jnp.sum(e**2) for e in embeddings)

    gradient = np.abs(np.asarray(jax.grad(output)(tokens))).sum(-1)
    for clip in range(2):
        queries = np.asarray(mask.queries_BxQ[clip])
        assert np.all(gradient[clip, queries] == 0)
    assert np.all(gradient[0, np.asarray(mask.visible_BxL[0])] > 0)

    # What fills an empty visible token changes no prediction and no embedding of others.
    visible = np.asarray(mask.visible_BxL[1])
    empty = visible[~has_data[1, visible]]
    assert len(empty)
    preds, embeddings = run(tokens)
    other_preds, other_embeddings = run(tokens.at[1, empty].add(100.0))
    np.testing.assert_array_equal(preds, other_preds)
    np.testing.assert_array_equal(embeddings.cls_Bx1xD, other_embeddings.cls_Bx1xD)
