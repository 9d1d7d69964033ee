"""Agreement with the reference implementation on its golden cases, 1e-5 relative."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_tools.geometry import Geometry
from fmrifm.model.files import from_reference, to_reference
from fmrifm.model.mae import MaskedAutoencoder, param_shapes
from fmrifm.model.masking import Mask
from fmrifm.model.options import ModelOptions
from fmrifm.model.targets import loss_sums, strided
from fmrifm.trainer.optimizer import clip_factor, decays, make_optimizer, make_schedule
from fmrifm.trainer.step import init_state, make_update

CASES = ["cm_tiny_default_like", "cm_tiny_attn_sep", "cm_tiny_cross"]
CLASS_DEFAULTS = {
    "pos_embed": "abs",
    "t_pred_stride": 1,
    "no_decode_pos": False,
    "no_embed_class": False,
    "head_init_scale": 1.0,
}


class Case:
    """A golden case as our model takes it: every token of the full grid, masks as weights."""

    def __init__(self, data: dict):
        meta = json.loads(str(data["meta"]))
        base = meta["base"]
        size, patch, t_patch = base["img_size"], base["patch_size"], base["t_patch_size"]
        self.grid = Geometry("golden", np.ones(size, bool), (patch, patch))
        kwargs = dict(meta.get("model_kwargs") or meta["kw"])
        known = {k: v for k, v in kwargs.items() if k in ModelOptions.__dataclass_fields__}
        known = {k: CLASS_DEFAULTS.get(k) if v is None else v for k, v in known.items()}
        self.options = ModelOptions(
            grid=self.grid.grid,
            patch_dim=patch * patch,
            num_frames=base["num_frames"],
            t_patch=t_patch,
            **{**CLASS_DEFAULTS, **known},
        )
        self.model = MaskedAutoencoder(self.options)
        state = {k.removeprefix("param/"): v for k, v in data.items() if k.startswith("param/")}
        self.params = from_reference(state, param_shapes(self.options))
        self.data = data
        images, img_mask = data["in/images"], data["in/img_mask"]
        mask = np.broadcast_to(img_mask, images.shape)
        self.tokens, self.valid = self.cut(images * mask), self.cut(mask)
        self.place = np.arange(self.tokens.shape[1], dtype=np.int32)

    def cut(self, images_BxCxTxHxW):
        o = self.options
        patches = self.grid.to_patches(images_BxCxTxHxW[:, 0])
        batch = len(patches)
        split = patches.reshape(batch, o.slots, o.t_patch, o.grid_size, o.patch_dim)
        return np.swapaxes(split, 2, 3).reshape(batch, -1, o.token_dim)

    def sums(self, params, mask):
        preds, embeddings = self.predict(params, mask)
        queries = mask.queries_BxQ[:, :, None]
        targets = strided(jnp.take_along_axis(self.tokens, queries, axis=1), self.options)
        weight = strided(jnp.take_along_axis(self.valid, queries, axis=1), self.options)
        sums = loss_sums(preds, targets, weight)
        return sums.error, sums

    def predict(self, params, mask):
        variables, has_data = {"params": params}, jnp.asarray(self.valid.any(-1))
        return self.model.apply(variables, self.tokens, has_data, self.place, mask)

    def loss(self, params, mask):
        error, sums = self.sums(params, mask)
        return error / sums.pixels


def relative(ours, theirs):
    return np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs))


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients(golden, name):
    case = Case(golden(name))
    data = case.data
    mask = Mask(data["out/visible_ids"], data["out/pred_ids"])
    loss, grads = jax.jit(jax.value_and_grad(case.loss))(case.params, mask)
    preds, embeddings = case.predict(case.params, mask)
    assert relative(loss, data["out/loss"]) < 1e-5
    assert relative(preds, data["out/preds"]) < 1e-5
    assert relative(embeddings.cls_Bx1xD, data["out/cls_embeds"]) < 1e-5
    assert relative(embeddings.patch_BxLxD, data["out/patch_embeds"]) < 1e-5
    assert relative(optax.tree.norm(grads), data["grad/global_norm"]) < 1e-5
    ours = to_reference(grads)
    names = json.loads(str(data["meta"]))["grad_names"]
    for grad_name, norm in zip(names, data["grad/norms"], strict=True):
        found = np.linalg.norm(ours[grad_name])
        if grad_name.endswith("attn.k.bias"):  # zero in mathematics: a shift of softmax
            assert found < 1e-6 * data["grad/global_norm"]
        else:
            assert abs(found - norm) < 1e-5 * norm
    for key in (key for key in data if key.startswith("grad/full/")):
        assert relative(ours[key.removeprefix("grad/full/")], data[key]) < 1e-5


@pytest.mark.parametrize("name", CASES[:2])
def test_encoder_alone(golden, name):
    case = Case(golden(name))
    has_data = np.ones(case.valid.shape[:2], bool)
    tokens = case.cut(case.data["in/images"])
    for kind, keep in (("nomask", has_data), ("imgmask", case.valid.any(-1))):
        # The first image's tokens with a pixel, in ascending order.
        ids = np.flatnonzero(keep[0])
        source = tokens if kind == "nomask" else case.tokens
        out = case.model.apply(
            {"params": case.params},
            source[:1, ids],
            has_data[:1, ids],
            case.place[ids],
            method="encode",
        )
        assert relative(out.cls_Bx1xD, case.data[f"out/embed_{kind}/cls"]) < 1e-5
        assert relative(out.patch_BxLxD, case.data[f"out/embed_{kind}/patch"]) < 1e-5


def test_six_optimizer_steps(golden):
    data = golden("cm_train6")
    meta = json.loads(str(data["meta"]))
    case = Case(data)
    seen = case.cut(np.broadcast_to(data["in/visible_mask"], data["in/images"].shape)) * case.valid
    visible, has_data = seen.any(-1), case.valid.any(-1)
    mask = Mask(
        np.stack([np.flatnonzero(row) for row in visible]),
        np.stack([np.flatnonzero(row) for row in has_data & ~visible]),
    )
    optim = {"b1": meta["betas"][0], "b2": meta["betas"][1], "weight_decay": meta["wd"]}
    tx = make_optimizer(optim)
    schedule = make_schedule(meta["lr"], meta["warmup"], meta["total"])
    ours = [schedule(j) for j in range(meta["total"])]
    np.testing.assert_allclose(ours, data["schedule"], atol=1e-9)
    update = make_update(tx, schedule, meta["clip"])

    @jax.jit
    def step(state):
        grads, sums = jax.grad(lambda p: case.sums(p, mask), has_aux=True)(state.params)
        return update(state, grads, sums)

    state = init_state(case.params, tx)
    for i in range(meta["total"]):
        state, metrics = step(state)
        assert relative(metrics["loss"], data["out/loss"][i]) < 1e-5
        assert relative(metrics["grad_norm"], data["out/grad_norm"][i]) < 1e-5
        assert abs(metrics["lr"] - data["out/lr"][i]) < 1e-9
    for name, value in to_reference(state.params).items():
        if not name.endswith("attn.k.bias"):  # its gradient is rounding noise
            assert relative(value, data[f"param_end/{name}"]) < 1e-4, name


def test_only_matrices_and_tokens_decay(golden):
    data = golden("cm_train6")
    params = Case(data).params
    decay = jax.tree_util.tree_map_with_path(
        lambda path, x: np.full(x.shape, float(decays(path))), params
    )
    found = {name: bool(value.all()) for name, value in to_reference(decay).items()}
    assert found == json.loads(str(data["meta"]))["decay"]


def test_clipping_has_the_epsilon_of_the_recipe():
    norm = jnp.float32(2e-6)
    np.testing.assert_allclose(clip_factor(norm, 1e-6), 1e-6 / (2e-6 + 1e-6), rtol=1e-6)
    assert clip_factor(jnp.float32(0.5), 1.0) == 1
    assert clip_factor(jnp.float32(1e9), 0) == 1


def test_weights_round_trip(golden):
    data = golden("cm_tiny_default_like")
    case = Case(data)
    state = to_reference(case.params)
    for name, value in state.items():
        np.testing.assert_array_equal(value, data[f"param/{name}"])
    assert len(state) == sum(key.startswith("param/") for key in data)
