"""Agreement with the reference implementation on its golden cases, 1e-5 relative."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import from_reference, to_reference
from fmrifm.model.pretrained import PretrainedModel
from fmrifm.model.targets import LossSums
from fmrifm.published.published_options import read_recipe
from fmrifm.trainer.optimizer import clip_factor, decays, make_optimizer, make_schedule
from fmrifm.trainer.step import init_state, make_update

CASES = [
    "cm_tiny_default_like",
    "cm_tiny_attn_sep",
    "cm_tiny_cross",
    "fm_tiny_norm_frame",
    "cm_tiny_messy_drop_edgepad",
    "fm_tiny_messy_frame_stride2",
]
NO_ENCODER = {"cm_tiny_cross", "fm_tiny_norm_frame"}  # without outputs of the encoder alone
FAMILY = [
    "family_attn_sincos_one_slot",
    "family_crossreg_abs_nocls_reg3_noembed",
    "family_full_decoding_edge2_predmask",
    "family_image_rgb_patch_norm",
    "family_nocls_reg2_embed",
    "family_parcels_40x1_norm_edge",
    "family_pred_mask_edge1_ratio",
    "family_rows_12x32_sincos_drop",
    "family_uneven_random",
    "family_video_2chan_stride2",
]


def load_case(data: dict) -> PretrainedModel:
    meta = json.loads(str(data["meta"]))
    kwargs = meta.get("model_kwargs") or meta["kw"]
    state = {k.removeprefix("param/"): v for k, v in data.items() if k.startswith("param/")}
    recipe = read_recipe({**meta["base"], "model_kwargs": kwargs}, state, "the case")
    geometry = Geometry(
        "golden", np.ones(recipe.options.frame_shape, bool), recipe.options.patch_shape
    )
    return PretrainedModel(
        recipe.options, from_reference(state, recipe.options), geometry, recipe.preprocessing, []
    )


def forward(model: PretrainedModel, data: dict, params=None, **kwargs):
    """The case's call, with given weights."""
    model = dataclasses.replace(model, params=model.params if params is None else params)
    names = {"image_mask": "img_mask", "visible_mask": "visible_mask", "pred_mask": "pred_mask"}
    masks = {name: data.get(f"in/{key}") for name, key in names.items()}
    return model.forward(data["in/images"], **masks, **kwargs)


def check_outputs(out: dict, data: dict) -> None:
    """Every output of the case is there and agrees, and no other is."""
    names = [key.removeprefix("out/") for key in data if key.startswith("out/")]
    names = {name for name in names if not name.startswith("embed_")} - {"loss64"}
    assert set(out) == names
    for name in names:
        assert relative(out[name], data[f"out/{name}"]) < 1e-5, name


def relative(ours, theirs):
    return np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs))


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients(golden, name):
    data = golden(name)
    model = load_case(data)
    ids = {"visible_ids_BxL": data["out/visible_ids"], "pred_ids_BxQ": data["out/pred_ids"]}
    call = jax.value_and_grad(lambda p: forward(model, data, p, **ids), has_aux=True)
    (loss, out), grads = call(model.params)
    check_outputs(out, data)
    assert relative(optax.tree.norm(grads), data["grad/global_norm"]) < 1e-5
    ours = to_reference(grads, model.options)
    names = json.loads(str(data["meta"]))["grad_names"]
    assert set(names) == set(ours)
    for grad_name, norm in zip(names, data["grad/norms"], strict=True):
        found = np.linalg.norm(ours[grad_name])
        if grad_name.endswith("attn.k.bias"):  # zero in mathematics: a shift of softmax
            assert found < 1e-6 * data["grad/global_norm"]
        else:
            assert abs(found - norm) < 1e-5 * norm
    for key in (key for key in data if key.startswith("grad/full/")):
        assert relative(ours[key.removeprefix("grad/full/")], data[key]) < 1e-5
    # The masks alone say the same.
    again, found = forward(model, data)
    np.testing.assert_array_equal(found["visible_ids"], data["out/visible_ids"])
    np.testing.assert_array_equal(found["pred_ids"], data["out/pred_ids"])
    assert again == pytest.approx(float(loss), rel=1e-6)  # of a program without gradients


@pytest.mark.parametrize("name", FAMILY)
def test_the_rest_of_the_family(golden, name):
    """Images, channels, parcels, oblong patches, registers, sparse and full decoding, and more."""
    data = golden(name)
    model, meta = load_case(data), json.loads(str(data["meta"]))
    ids = {"visible_ids_BxL": data["out/visible_ids"], "pred_ids_BxQ": data["out/pred_ids"]}
    full_decoding = meta["kwargs"].get("full_decoding", False)
    _, out = forward(model, data, **ids, full_decoding=full_decoding)
    check_outputs(out, data)


@pytest.mark.parametrize("name", sorted({*CASES, *FAMILY} - NO_ENCODER))
def test_encoder_alone(golden, name):
    data = golden(name)
    model, image = load_case(data), data["in/images"][:1]
    image_mask = np.broadcast_to(data["in/img_mask"], data["in/images"].shape)[:1]
    for kind, mask in (("nomask", np.ones_like(image)), ("imgmask", image_mask)):
        for part, found in zip(("cls", "reg", "patch"), model.encode(image, mask), strict=True):
            theirs = data.get(f"out/embed_{kind}/{part}")
            assert (found is None) == (theirs is None), part
            assert found is None or relative(found, theirs) < 1e-5, part
        assert found.shape[1] == data[f"out/embed_{kind}/num_patches"]


def test_six_optimizer_steps(golden):
    data = golden("cm_train6")
    meta, model = json.loads(str(data["meta"])), load_case(data)
    b1, b2 = meta["betas"]
    tx = make_optimizer({"name": "adamw", "b1": b1, "b2": b2, "weight_decay": meta["wd"]})
    schedule = make_schedule(meta["lr"], meta["warmup"], meta["total"])
    ours = [schedule(j) for j in range(meta["total"])]
    np.testing.assert_allclose(ours, data["schedule"], atol=1e-9)
    update = jax.jit(make_update(tx, schedule, meta["clip"]))
    call = jax.value_and_grad(lambda p: forward(model, data, p), has_aux=True)
    state = init_state(jax.tree.map(jnp.asarray, model.params), tx)
    for i in range(meta["total"]):
        (loss, _), grads = call(state.params)
        state, metrics = update(state, grads, LossSums(loss, loss, jnp.ones(())))
        assert relative(metrics["loss"], data["out/loss"][i]) < 1e-5
        assert relative(metrics["grad_norm"], data["out/grad_norm"][i]) < 1e-5
        assert abs(metrics["lr"] - data["out/lr"][i]) < 1e-9
    for name, value in to_reference(state.params, model.options).items():
        if not name.endswith("attn.k.bias"):  # its gradient is rounding noise
            assert relative(value, data[f"param_end/{name}"]) < 1e-4, name


@pytest.mark.parametrize("total, warmup", [(20, 5), (7, 0), (10, 1)])
def test_schedule(golden, total, warmup):
    """The case ends at 1e-5, where the recipe ends at 0."""
    base, final = 1e-3, 1e-5
    cosine, steps = make_schedule(base - final, warmup, total), np.arange(total)
    ours = np.where(
        steps < warmup, make_schedule(base, warmup, total)(steps), final + cosine(steps)
    )
    np.testing.assert_allclose(ours, golden("utils")[f"warmup_cosine/{total}_{warmup}"], atol=1e-9)


def test_only_matrices_and_tokens_decay(golden):
    data = golden("cm_train6")
    model = load_case(data)
    decay = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full(x.shape, float(decays(path))), model.params
    )
    named = to_reference(decay, model.options)
    found = {name: bool(value.all()) for name, value in named.items()}
    assert found == json.loads(str(data["meta"]))["decay"]


def test_clipping_has_the_epsilon_of_the_recipe():
    norm = jnp.float32(2e-6)
    np.testing.assert_allclose(clip_factor(norm, 1e-6), 1e-6 / (2e-6 + 1e-6), rtol=1e-6)
    assert clip_factor(jnp.float32(0.5), 1.0) == 1
    assert clip_factor(jnp.float32(1e9), 0) == 1
