"""Every option trains through the real loop, on every kind of space."""

import json

import jax
import numpy as np
import pytest

import fmrifm
from configs.published import RECIPES, get_config
from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.store.writer import StoreWriter
from fmrifm.input.data import open_data
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles, save_model
from fmrifm.model.options import SIZES, options_from_config
from fmrifm.probe.features.encode import encode
from fmrifm.probe.samples.labels import parse_target
from fmrifm.probe.samples.samples import make_samples
from fmrifm.trainer.loop import train
from fmrifm.trainer.program import Program
from fmrifm.trainer.warm_start import warm_start
from tests.conftest import toy_geometry

STANDARD = Geometry("flat", np.ones((224, 560), bool), (16, 16))
PICTURE = np.random.default_rng(0).integers(-1, 40, (14, 35)).astype(np.int32)
PARCELS = Geometry(
    "schaefer40", np.ones((40, 1), bool), (1, 1), picture=PICTURE,
    regions=tuple(f"parcel {i}" for i in range(40)), source_sha256="a",
)  # fmt: skip
CUBE_MASK = np.random.default_rng(0).random((12, 8)) < 0.8
COLUMNS = np.where(CUBE_MASK, np.cumsum(CUBE_MASK).reshape(12, 8), -1).astype(np.int32)
CUBES = Geometry("mni_cortex", CUBE_MASK, (1, 8), picture=PICTURE, columns=COLUMNS, n_columns=99)


def write_store(path, geometry):
    """Three runs of noise before and after z-scoring."""
    rng = np.random.default_rng(0)
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}) as writer:
        for subject in range(3):
            shape = (40, geometry.n_patches, geometry.patch_dim)
            bold = (rng.normal(size=shape) * geometry.patch_mask).astype(np.float16)
            mean, std = rng.uniform(1, 3, (2, *shape[1:])) * geometry.patch_mask
            writer.add(
                f"sub-{subject}", bold, dataset="toy", subject=str(subject), task="rest",
                mean=mean.astype(np.float32), std=std.astype(np.float32),
            )  # fmt: skip
        writer.finish()
    return path


CASES = {
    "parcels": (
        PARCELS,
        {
            "model__patch": 0, "model__masking": "random", "model__target_norm": "patch",
            "model__pred_mask_ratio": 0.5, "model__gauss_sigma": 0.3, "model__reg_tokens": 2,
            "model__drop_path_rate": 0.2, "model__decoding": "crossreg",
            "augment__gray_jitter": 0.2, "augment__tr_scale": 0.8,
        },
    ),
    "cubes": (CUBES, {"model__patch": 0, "model__target_norm": "global", "model__t_patch": 16}),
    "flat": (
        toy_geometry(),
        {
            "model__decoding": "cross", "model__pred_edge_pad": 2, "model__mask_patch_size": 16,
            "model__mask_drop_scale": True, "model__target_norm": "pca",
            "augment__crop_scale": 0.5, "augment__crop_aspect": 0.8,
            "data__no_coord_normalize": True,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_options_and_spaces_train(toy_config, one_device, tmp_path, name):
    geometry, overrides = CASES[name]
    store = write_store(tmp_path / "store", geometry)
    components = np.linalg.qr(np.random.default_rng(1).normal(size=(geometry.mask.size, 2)))[0].T
    components = components.reshape(2, *geometry.mask.shape).astype(np.float32)
    np.save(tmp_path / "components.npy", components)
    if name == "flat":
        overrides = {**overrides, "model__pca_components": str(tmp_path / "components.npy")}
    config = toy_config(
        total_steps=4, figures=1, data__train=str(store), data__eval=f"held={store}", **overrides
    )
    workdir = tmp_path / "run"
    assert train(config, workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert np.isfinite(losses).all() and all(loss > 0 for loss in losses)
    assert list((workdir / "figures").glob("*.png"))

    model = fmrifm.from_pretrained(workdir)
    np.testing.assert_array_equal(model.geometry.mask, geometry.mask)
    if name != "flat":  # whose patches the model cuts anew
        assert model.geometry.to_bytes() == geometry.to_bytes()
    if name == "flat":  # given, not learned
        np.testing.assert_array_equal(model.params["target_norm"]["components"], components)
    sources = parse_sources(str(store))
    samples = make_samples(sources, parse_target("run:key"), unit="clip", num_frames=16)
    features = encode(model, sources, samples, ("avg_patch", "cls"), tmp_path / "features")
    assert np.isfinite(features["avg_patch"]).all() and len(features["cls"]) == len(samples)


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes(name):
    config = get_config(name)
    geometry = {"parcels": PARCELS, "volume": CUBES}.get(name, STANDARD)
    o = options_from_config(config.model, geometry, config.data.num_frames)
    assert (o.embed_dim, o.depth, o.num_heads) == SIZES["base"][:3] and o.mask_ratio == 0.9
    older = name.startswith("older")
    assert (o.masking == "random", o.no_embed_class, o.no_decode_pos) == (
        older,
        not older,
        not older,
    )
    assert o.t_pred_stride == 2 and config.total_steps == 625_000
    local = get_config(f"{name},runlocal")
    assert local.total_steps == 20 and (local.optim.lr is None) != (local.optim.base_lr is None)
    if name == "cross_edge4":
        assert (o.decoding, o.pred_edge_pad) == ("cross", 4)


def test_an_unknown_recipe_is_named():
    with pytest.raises(InputError, match="'olde' is no published recipe: choose one of newer"):
        get_config("olde")


def test_pca_targets_need_their_components(toy_config, tmp_path):
    with pytest.raises(InputError, match="set model.pca_components"):
        train(toy_config(model__target_norm="pca"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_components_are_data_to_a_warm_start(toy_config, tmp_path):
    """A plain model can go on with pca targets and back; given ones replace old ones."""
    files = {}
    for name in ("old", "new"):
        files[name] = np.random.default_rng(len(name)).normal(size=(2, 32, 64)).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", files[name] + (name == "new"))
    files["new"] += 1
    pca = {"model__target_norm": "pca"}
    programs = {}

    def program(**kwargs):
        config = toy_config(**kwargs)
        return Program(config, open_data(config).geometry, jax.devices()[:1])

    def export(name, **kwargs):
        programs[name] = program(**kwargs)
        params = jax.device_get(programs[name].initial_state(0).params)
        model = ModelFiles(programs[name].options, params, toy_geometry(), {}, [])
        save_model(tmp_path / name, model)
        return str(tmp_path / name)

    plain = export("plain")
    with_old = export("pca", model__pca_components=str(tmp_path / "old.npy"), **pca)

    def start(source, **kwargs):
        return warm_start(program(init_from=source, **kwargs), source)[0].params

    new = {"model__pca_components": str(tmp_path / "new.npy"), **pca}
    for source, kwargs, expected in (
        (plain, new, "new"), (with_old, new, "new"), (with_old, pca, "old"), (with_old, {}, None)
    ):  # fmt: skip
        params = start(source, **kwargs)
        if expected is None:
            assert "target_norm" not in params
        else:
            np.testing.assert_array_equal(params["target_norm"]["components"], files[expected])
    with pytest.raises(InputError, match="set model.pca_components"):
        start(plain, **pca)
    with pytest.raises(InputError, match="is for model.target_norm='pca'"):
        program(model__pca_components="nowhere.npy")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("model__embed_dim", 0, "model.embed_dim=0 must lie in "),
        ("model__decoder_embed_dim", -32, "model.decoder_embed_dim=-32"),
        ("model__patch", -8, "model.patch=-8"),
        ("model__mask_patch_size", -8, "model.mask_patch_size=-8"),
        ("model__pred_mask_ratio", 0.999, "leaves no token to predict"),
        ("data__num_frames", 0, "data.num_frames=0"),
        ("data__eval_clips", -1, "data.eval_clips=-1"),
        ("augment__tr_scale", 1.5, "augment.tr_scale=1.5"),
        ("augment__tr_scale", 0.2, "a clip takes 80 of them"),
        ("augment__crop_aspect", 0.8, "augment.crop_scale"),
        ("data__no_coord_normalize", True, "--chain=pixel"),
    ],
)
def test_wrong_numbers_are_named(toy_config, tmp_path, name, value, message):
    with pytest.raises(InputError, match=message):
        train(toy_config(**{name: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_encoder_alone_cannot_be_pretrained(toy_config, tmp_path):
    with pytest.raises(InputError, match="model.decoding='none'"):
        train(toy_config(model__decoding="none"), tmp_path / "run")
