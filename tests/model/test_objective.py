"""What may influence what, and what the loss is made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from fmrifm.model.blocks import drop_path
from fmrifm.model.mae import init_params
from fmrifm.model.masking import Mask
from fmrifm.model.objective import Noise, Pixels
from fmrifm.model.targets import near, normalize_targets, strided
from fmrifm.model.tokens import patchify, unpatchify
from tests.model.toy import clips, keys, objective, options, toy_map


def make(**kwargs):
    """An objective with weights and four clips with masks of their own."""
    o = options(**kwargs)
    task = objective(o)
    params = nn.unbox(init_params(task.model, jax.random.key(1)))
    pixels = clips(o, 4)
    return task, params, pixels, task.draw(keys(4), pixels)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"decoding": "attn", "mask_drop_scale": True},
        {"decoding": "cross", "masking": "random"},
        {"decoding": "crossreg", "reg_tokens": 2, "class_token": False},
        {"decoding": "attn", "pred_edge_pad": 1, "pred_mask_ratio": 0.8, "target_norm": "frame"},
    ],
)
def test_only_visible_data_reach_the_encoder(kwargs):
    task, params, pixels, mask = make(**kwargs)

    def output(values):
        outcome = task(params, pixels._replace(values_BxMxV=values), mask)
        embeddings = [e for e in outcome.embeddings if e is not None]
        weights = [jax.random.normal(jax.random.key(5), e.shape) for e in embeddings]
        return sum(jnp.sum(w * e) for w, e in zip(weights, embeddings, strict=True)), outcome

    run = jax.jit(jax.grad(output, has_aux=True))
    gradient, outcome = run(pixels.values_BxMxV)
    visible = np.zeros(gradient.shape[:2], bool)
    np.put_along_axis(visible, np.asarray(mask.visible_BxL), True, axis=1)
    may = visible[:, :, None] & pixels.valid_BxMxV
    assert np.all(np.asarray(gradient)[~may] == 0)
    assert np.median(np.abs(np.asarray(gradient)[may])) > 1e-3

    # The same for what the decoder makes of it, and for NaN where there are no data.
    spoiled = np.where(may, pixels.values_BxMxV, np.nan)
    again = run(spoiled)[1]
    np.testing.assert_array_equal(again.preds_BxQxW, outcome.preds_BxQxW)


@pytest.mark.parametrize("decoding", ["attn", "cross"])
def test_an_empty_visible_token_is_nobodys_neighbour(decoding):
    task, params, pixels, _ = make(decoding=decoding)
    tokens = pixels.valid_BxMxV.shape[1]
    empty = np.arange(tokens) % 20 >= 3  # three patches are left
    valid = pixels.valid_BxMxV & ~empty[None, :, None]
    pixels = Pixels(pixels.values_BxMxV, valid, valid, valid)
    mask = task.draw(keys(4), pixels)
    outcome = task(params, pixels, mask)
    # Without them: ids past the last are no tokens.
    short = np.where(empty[np.asarray(mask.visible_BxL)], tokens, mask.visible_BxL)
    again = task(params, pixels, Mask(jnp.asarray(short), mask.queries_BxQ))
    assert empty[np.asarray(mask.visible_BxL)].any()
    np.testing.assert_array_equal(again.preds_BxQxW, outcome.preds_BxQxW)
    np.testing.assert_array_equal(again.embeddings.cls_Bx1xD, outcome.embeddings.cls_Bx1xD)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["tube", "random"]), st.integers(0, 10**6))
def test_predictions_touch_neither_visible_nor_missing_pixels(pad, masking, seed):
    o = options(pred_edge_pad=pad, masking=masking)
    task, pixels = objective(o), clips(o, 2, seed, missing=0.4)
    mask = task.draw(keys(2, seed), pixels)
    predicted = np.asarray(unpatchify(task.to_predict(pixels, mask.visible_BxL), toy_map(), o)) > 0
    valid = np.asarray(unpatchify(jnp.asarray(pixels.valid_BxMxV), toy_map(), o)) > 0
    tokens = np.zeros(pixels.valid_BxMxV.shape, bool)
    np.put_along_axis(tokens, np.asarray(mask.visible_BxL)[:, :, None], True, axis=1)
    shown = np.asarray(unpatchify(jnp.asarray(tokens), toy_map(), o)) > 0
    size = (1, 1, 1, 2 * pad + 1, 2 * pad + 1)
    edges = maximum_filter(shown & valid, size, mode="constant")
    np.testing.assert_array_equal(predicted, valid & ~edges)


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"pred_mask_ratio": 0.8, "masking": "random"}, {"pred_edge_pad": 1, "t_pred_stride": 4}],
)
def test_the_loss_looks_at_predicted_pixels_only(kwargs):
    task, params, pixels, mask = make(**kwargs)
    wanted = pixels.valid_BxMxV & (np.random.default_rng(3).random(pixels.valid_BxMxV.shape) < 0.7)
    pixels = pixels._replace(wanted_BxMxV=wanted)
    outcome = task(params, pixels, mask)

    def error(values):  # as targets; what the encoder sees stays
        seen = pixels._replace(values_BxMxV=values)
        return task(params, seen, mask).sums.error

    gradient = np.array(jax.grad(error)(pixels.values_BxMxV))
    rows = np.asarray(mask.visible_BxL)[:, :, None]
    assert np.abs(np.take_along_axis(gradient, rows, 1)).max() > 0  # through the encoder
    np.put_along_axis(gradient, rows, 0, axis=1)
    o = task.model.options
    asked = np.zeros(gradient.shape, bool)
    np.put_along_axis(
        asked, np.asarray(mask.queries_BxQ)[:, :, None], np.asarray(outcome.predicted_BxQxV), 1
    )
    kept = np.zeros((o.t_patch, 4), bool)
    kept[:: o.t_pred_stride] = True
    np.testing.assert_array_equal(gradient != 0, asked & kept.reshape(-1))


def test_dilation_is_that_of_the_reference(golden):
    data = golden("utils")
    o = options(grid=(6, 6), num_frames=2, t_patch=2)
    full = dataclasses.replace(toy_map(), mask=np.ones((12, 12), bool))
    seen = patchify(data["pad/in"] > 0, full, o)
    for pad in (1, 2):
        found = unpatchify(near(seen, pad, full, o), full, o)
        np.testing.assert_array_equal(found, data[f"pad/out{pad}"] > 0)


def test_the_loss_of_a_batch_is_that_of_its_shards():
    task, params, pixels, mask = make(target_norm="frame")
    whole = task(params, pixels, mask).sums
    parts = [
        task(params, *jax.tree.map(lambda x, i=i: x[i : i + 1], (pixels, mask))).sums
        for i in range(4)
    ]
    assert len({float(part.pixels) for part in parts}) > 1  # shards differ in what they hold
    for total, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(total, sum(shares), rtol=1e-6)
    counted = jnp.array([True, False, True, True])
    left = task(params, pixels, mask, counted).sums
    np.testing.assert_allclose(left.error, whole.error - parts[1].error, rtol=1e-5)


@pytest.mark.parametrize("kind", ["global", "frame", "patch"])
def test_target_normalisation(kind):
    o = options(target_norm=kind, t_pred_stride=2)
    pixels = clips(o, 3, missing=0.3)
    values, valid = strided(pixels.values_BxMxV, o), strided(pixels.valid_BxMxV, o)
    found = normalize_targets(values, valid, o, toy_map(), None)
    shape = (3, o.slots, 20, o.target_dim)
    values, valid = values.reshape(shape), valid.reshape(shape)
    over = {"global": (1, 2, 3), "frame": (2, 3), "patch": (3,)}[kind]
    kept = np.where(valid, values, np.nan).astype(np.float64)
    scale = np.sqrt(np.nanvar(kept, axis=over, keepdims=True) + 1e-6)
    expected = np.nan_to_num((kept - np.nanmean(kept, axis=over, keepdims=True)) / scale)
    np.testing.assert_allclose(found.normed_BxMxW.reshape(shape), expected, atol=2e-5)
    restored = found.normed_BxMxW * found.scale_BxMxW + found.offset_BxMxW
    np.testing.assert_allclose(restored.reshape(shape)[valid], values[valid], atol=1e-5)


def test_principal_components_are_taken_out_of_the_targets():
    """The inner product is over the whole frame, whatever lies off the mask."""
    o, rng = options(target_norm="pca"), np.random.default_rng(0)
    there = np.kron(np.isin(np.arange(24), toy_map().patch_index).reshape(4, 6), np.ones((2, 2)))
    images = (rng.normal(size=(2, 1, 8, 8, 12)) * there).astype(np.float32)
    basis = np.linalg.qr(rng.normal(size=(96, 2)) * there.reshape(-1, 1))[0]
    components = basis.T.reshape(2, 8, 12).astype(np.float32)
    values = strided(patchify(images, toy_map(), o), o)
    valid = strided(patchify(np.broadcast_to(toy_map().mask, images.shape), toy_map(), o), o)
    found = normalize_targets(values, valid, o, toy_map(), jnp.asarray(components))
    rest = images[:, :, ::2].reshape(2, 4, 96)
    rest = rest - rest @ basis @ basis.T
    rest = rest[:, :, toy_map().mask.reshape(-1)]
    rest = (rest - rest.mean(-1, keepdims=True)) / np.sqrt(rest.var(-1, keepdims=True) + 1e-6)
    short = dataclasses.replace(o, num_frames=4, t_patch=2, t_pred_stride=1)
    normed = np.asarray(unpatchify(found.normed_BxMxW, toy_map(), short))
    np.testing.assert_allclose(normed[:, 0][:, :, toy_map().mask], rest, atol=1e-5)
    restored = found.normed_BxMxW * found.scale_BxMxW + found.offset_BxMxW
    np.testing.assert_allclose(restored * valid, values * valid, atol=1e-5)
    # The components are given: nothing trains them.
    task = objective(o)
    params = nn.unbox(init_params(task.model, jax.random.key(1)))
    params["target_norm"]["components"] = jnp.asarray(components)
    pixels = clips(o, 4)
    mask = task.draw(keys(4), pixels)
    grads = jax.grad(lambda p: task(p, pixels, mask).sums.error)(params)
    assert not grads["target_norm"]["components"].any()
    assert any(leaf.any() for leaf in jax.tree.leaves(grads["encoder"]))


def test_input_noise_spares_targets_and_masks():
    task, params, pixels, mask = make(gauss_sigma=0.5)
    noise = Noise(keys(4, 1), keys(4, 2))
    clean, noisy = task(params, pixels, mask), task(params, pixels, mask, noise=noise)
    np.testing.assert_array_equal(clean.targets.normed_BxMxW, noisy.targets.normed_BxMxW)
    assert clean.sums.power == noisy.sums.power and clean.sums.error != noisy.sums.error
    seen = task.see(params, pixels, mask.visible_BxL)
    shaken = task.see(params, pixels, mask.visible_BxL, noise.input_B)
    shown = np.take_along_axis(pixels.valid_BxMxV, np.asarray(mask.visible_BxL)[:, :, None], 1)
    assert np.all(np.asarray(shaken.tokens_BxLxP)[~shown] == 0)
    np.testing.assert_array_equal(seen.observed_BxL, shaken.observed_BxL)
    # (1 - t) x + t z, one t a clip: regress the noisy values on the clean ones.
    for row in range(4):
        x, y = (np.asarray(s.tokens_BxLxP)[row][shown[row]] for s in (seen, shaken))
        slope = (x * y).sum() / (x * x).sum()
        assert 0.4 < slope <= 1.1 and abs((y - slope * x).std() - (1 - slope)) < 0.15


def test_stochastic_depth_drops_whole_branches_of_a_clip():
    depth, clips_ = 5, 20_000
    factors = np.asarray(drop_path(keys(clips_), depth, 0.4))
    assert factors.shape == (depth, 2, clips_)
    for d, rate in enumerate(np.linspace(0, 0.4, depth)):
        assert set(np.unique(factors[d])) <= {np.float32(0), np.float32(1 / np.float32(1 - rate))}
        assert np.all(np.abs((factors[d] == 0).mean(-1) - rate) < 0.02)
    task, params, pixels, mask = make(drop_path_rate=0.9, depth=3)
    noise = Noise(keys(4, 1), keys(4, 2))
    kept, dropped = task(params, pixels, mask), task(params, pixels, mask, noise=noise)
    assert not np.array_equal(kept.preds_BxQxW, dropped.preds_BxQxW)
    again = task(params, *jax.tree.map(lambda x: x[2:3], (pixels, mask, None, noise)))
    np.testing.assert_allclose(again.preds_BxQxW[0], dropped.preds_BxQxW[2], atol=1e-5)


def test_full_decoding_predicts_what_is_visible_too():
    task, params, pixels, mask = make()
    every = np.tile(np.arange(40, dtype=np.int32), (4, 1))
    outcome = task(params, pixels, Mask(mask.visible_BxL, every), full_decoding=True)
    np.testing.assert_array_equal(outcome.predicted_BxQxV, pixels.valid_BxMxV)
    assert outcome.sums.pixels == strided(pixels.valid_BxMxV, task.model.options).sum()


@pytest.mark.parametrize("chans", [1, 3])
def test_patchify_is_the_published_order(chans):
    o = options(in_chans=chans)
    images = np.random.default_rng(0).normal(size=(2, chans, 8, 8, 12)).astype(np.float32)
    tokens = np.asarray(patchify(images, toy_map(), o))
    # b c (t u) (h p) (w q) -> b (t h w) (c u p q)
    x = images.reshape(2, chans, 2, 4, 4, 2, 6, 2).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    x = x.reshape(2, 2, 24, -1)[:, :, toy_map().patch_index].reshape(2, 40, -1)
    np.testing.assert_array_equal(tokens, x)
    there = np.kron(np.isin(np.arange(24), toy_map().patch_index).reshape(4, 6), np.ones((2, 2)))
    np.testing.assert_array_equal(unpatchify(tokens, toy_map(), o), images * there)
