"""The Python contract of a loaded model, where the golden cases do not reach."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from data_tools.errors import InputError
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.pretrained import PretrainedModel
from tests.model.toy import options, toy_map


def load(**kwargs) -> PretrainedModel:
    o = options(**kwargs)
    params = nn.unbox(init_params(MaskedAutoencoder(o), jax.random.key(0)))
    return PretrainedModel(o, params, toy_map(), {"normalize": "frame"}, [])


@pytest.fixture(scope="module")
def model():
    return load(gauss_sigma=0.5, drop_path_rate=0.5, depth=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(3, 1, 8, 8, 12)).astype(np.float32)


def test_masks_are_drawn_from_the_key_on_the_cortex(model, images):
    loss, out = model.forward(images)
    assert np.isfinite(loss)
    slots, count = model.config.num_frames // model.config.t_patch, model.options.visible_count
    assert out["visible_ids"].shape == (3, slots * count)
    both = np.concatenate([out["visible_ids"], out["pred_ids"]], axis=1)
    index = model.geometry.patch_index
    every = np.concatenate([index, index + 24])
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(every, (3, 1)))
    again = model.forward(images)[1]
    np.testing.assert_array_equal(again["preds"], out["preds"])
    other = model.forward(images, key=jax.random.key(1))[1]
    assert not np.array_equal(other["visible_ids"], out["visible_ids"])
    assert not np.asarray(out["pred_images"])[..., ~model.geometry.mask].any()
    # A clip's draw does not depend on its neighbours.
    alone = model.forward(images[:1])[1]
    np.testing.assert_array_equal(alone["visible_ids"][0], out["visible_ids"][0])


def test_training_adds_noise_and_drops_branches(model, images):
    clean, out = model.forward(images)
    noisy, found = model.forward(images, train=True)
    np.testing.assert_array_equal(out["visible_ids"], found["visible_ids"])
    assert clean != noisy and model.forward(images, train=True)[0] == noisy


def test_clips_of_different_size_are_filled_up(model, images):
    mask = np.broadcast_to(model.geometry.mask, (3, 1, 1, 8, 12)).copy()
    mask[1, ..., :6] = 0  # half of the map is missing
    cls, reg, patch = model.encode(images, mask)
    assert reg is None and patch.shape == (3, 40, 16)
    assert np.all(np.asarray(patch[1, 20:]) == 0) and np.all(np.any(patch[1, :20], axis=-1))
    alone = model.encode(images[1:2], mask[1:2])
    np.testing.assert_allclose(alone.patch_BxLxD[0], patch[1, :20], atol=1e-5)
    np.testing.assert_allclose(alone.cls_Bx1xD[0], cls[1], atol=1e-5)

    visible = np.zeros((8, 12))
    visible[2:6, 4:] = 1  # eight patches, two of them in the missing half
    loss, out = model.forward(images, mask, visible)
    assert out["visible_ids"].shape == (3, 16) and np.all(out["visible_ids"][1, 12:] == -1)
    assert np.all(out["pred_ids"][1, -10:] == -1) and np.isfinite(loss)
    assert not np.asarray(out["preds"])[out["pred_ids"] < 0].any()
    losses = [model.forward(images[i : i + 1], mask[i : i + 1], visible) for i in range(3)]
    weights = [float(o["pred_mask_sum"]) for _, o in losses]
    mean = sum(float(x) * w for (x, _), w in zip(losses, weights, strict=True)) / sum(weights)
    np.testing.assert_allclose(loss, mean, rtol=1e-5)


def test_sparse_prediction_draws_among_what_can_be_predicted(images):
    model = load(pred_mask_ratio=0.8)
    pred_mask = np.zeros((8, 12))
    pred_mask[:, :4] = 1
    _, out = model.forward(images, pred_mask=pred_mask)
    assert out["pred_ids"].shape[1] <= model.options.query_limit
    assert np.all((out["pred_ids"] % 6 < 2) | (out["pred_ids"] < 0))
    _, out = model.forward(images)
    assert out["pred_ids"].shape == (3, model.options.query_limit)


def test_images_without_time():
    model = load(num_frames=None, t_patch=1, t_pred_stride=1, pos_embed="abs", in_chans=3)
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 12)).astype(np.float32)
    loss, out = model.forward(images)
    assert out["pred_images"].shape == images.shape
    again, found = model.forward(images[:, :, None])
    assert again == loss and found["pred_images"].shape == (2, 3, 1, 8, 12)
    np.testing.assert_array_equal(found["pred_images"][:, :, 0], out["pred_images"])
    assert model.encode(images, np.ones((8, 12))).patch_BxLxD.shape == (2, 24, 16)


def test_gradients_reach_images_and_parameters(model, images):
    def loss(params, images):
        return dataclasses.replace(model, params=params).forward(images)[0]

    by_params, by_images = jax.grad(loss, argnums=(0, 1))(model.params, images)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_params))
    assert np.asarray(by_images)[..., model.geometry.mask].any()
    assert not np.asarray(by_images)[..., ~model.geometry.mask].any()


def test_depth_zero_is_the_patch_embedding(images):
    model = load(depth=0, decoding="none", class_token=False)
    _, _, patch = model.encode(images)
    changed = images.copy()
    changed[..., 3:5, 7:9] += 1
    moved = np.asarray(model.encode(changed).patch_BxLxD) != np.asarray(patch)
    places = toy_map().patch_index[np.flatnonzero(moved.any((0, 2))) % 20]
    assert sorted(set(places.tolist())) == [9, 10, 15, 16]  # rows 1 and 2, columns 3 and 4
    with pytest.raises(InputError, match="an encoder without a decoder"):
        model.forward(images)


def test_wrong_shapes_are_named(model, images):
    with pytest.raises(InputError, match=r"not \(batch, 1, 8, 8, 12\)"):
        model.forward(images[:, :, :4])
    with pytest.raises(InputError, match=r"mask of shape \(5, 12\)"):
        model.encode(images, np.ones((5, 12)))


def test_wrong_ids_are_named(model, images):
    with pytest.raises(InputError, match=r"shape \(2, 4\), not \(3, tokens\)"):
        model.forward(images, visible_ids_BxL=np.zeros((2, 4), int))
    with pytest.raises(InputError, match="reach from 0 to 48, not 0 to 47"):
        model.forward(images, pred_ids_BxQ=np.array([[0, 48]] * 3))


@pytest.mark.parametrize("decoding", ["attn", "cross"])
def test_nothing_to_predict(images, decoding):
    model = load(decoding=decoding)
    loss, out = model.forward(images, visible_mask=np.ones((8, 12)))
    assert loss == 0 and out["preds"].shape == (3, 0, 8) and out["pred_mask_sum"] == 0


def test_config_reads_like_the_published_one(model):
    assert model.config["embed_dim"] == model.config.embed_dim == 16
    assert model.config.decoding == "attn" and model.config.mask_ratio == 0.7
