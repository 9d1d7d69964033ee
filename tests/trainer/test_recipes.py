"""Every option trains through the real loop, on every kind of space."""

import json

import numpy as np
import pytest

import fmrifm
from configs.published import RECIPES, get_config
from data_tools.errors import InputError
from data_tools.geometry import Geometry
from data_tools.store_writer import StoreWriter
from fmrifm.evaluation.features import clip_features
from fmrifm.input.clips import list_clips
from fmrifm.input.sources import parse_sources
from fmrifm.model.options import SIZES, options_from_config
from fmrifm.trainer.loop import train
from tests.conftest import toy_geometry

STANDARD = Geometry("flat", np.ones((224, 560), bool), (16, 16))
PARCELS = Geometry("schaefer40", np.ones((40, 1), bool), (1, 1))
CUBES = Geometry("mni_cortex", np.random.default_rng(0).random((12, 8)) < 0.8, (1, 8))


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
    config = toy_config(
        total_steps=4, figures=1, data__train=str(store), data__eval=f"held={store}",
        model__pca_components=str(tmp_path / "components.npy"), **overrides,
    )  # fmt: skip
    workdir = tmp_path / "run"
    assert train(config, workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert np.isfinite(losses).all() and all(loss > 0 for loss in losses)
    assert list((workdir / "figures").glob("*.png"))

    model = fmrifm.from_pretrained(workdir)
    np.testing.assert_array_equal(model.geometry.mask, geometry.mask)
    if name == "flat":  # given, not learned
        np.testing.assert_array_equal(model.params["target_norm"]["components"], components)
    sources = parse_sources(str(store))
    clips = list_clips(sources, 16)
    features = clip_features(model, sources, clips)
    assert np.isfinite(features["avg_patch"]).all() and len(features["cls"]) == len(clips)


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
    assert get_config(f"{name},runlocal").total_steps == 20
    if name == "cross_edge4":
        assert (o.decoding, o.pred_edge_pad) == ("cross", 4)


def test_an_unknown_recipe_is_named():
    with pytest.raises(InputError, match="'olde' is no published recipe: choose one of newer"):
        get_config("olde")


def test_pca_targets_need_their_components(toy_config, tmp_path):
    with pytest.raises(InputError, match="set model.pca_components"):
        train(toy_config(model__target_norm="pca"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_encoder_alone_cannot_be_pretrained(toy_config, tmp_path):
    with pytest.raises(InputError, match="model.decoding='none'"):
        train(toy_config(model__decoding="none"), tmp_path / "run")
