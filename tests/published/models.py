"""Tiny models of every kind with random weights, shared by the tests of files."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions
from tests.conftest import ROOT

CHECKPOINT = ROOT / "tests" / "golden" / "cm_tiny_default_like.pth"
DEFAULT = ModelOptions(
    grid=(4, 8), patch_shape=(4, 4), num_frames=4, t_patch=2, embed_dim=16, depth=2, num_heads=2,
    decoder_embed_dim=12, decoder_depth=1, decoder_num_heads=2,
)  # fmt: skip


def options(**changes) -> ModelOptions:
    return dataclasses.replace(DEFAULT, **changes)


SHAPES = {
    "default": DEFAULT,
    "sincos": options(pos_embed="sincos", no_embed_class=False, mask_ratio=0.5, masking="random"),
    "crossreg": options(decoding="crossreg", reg_tokens=3, no_embed_class=False, remat="dots"),
    "cross": options(decoding="cross", pos_embed="abs", drop_path_rate=0.25, gauss_sigma=0.5),
    "no class token": options(class_token=False, no_decode_pos=False, t_pred_stride=1),
    "pca": options(target_norm="pca", pca_norm_nc=3, head_init_scale=1.0, pred_edge_pad=2),
    "encoder alone": options(decoding="none", mask_drop_scale=True),
    "depth 0": options(depth=0, decoder_depth=0, pred_mask_ratio=0.6, mask_patch_size=8),
    "2-D": options(
        num_frames=None, t_patch=1, t_pred_stride=1, in_chans=3, pos_embed="sincos",
        grid=(2, 4), patch_shape=(2, 4), decoding="none",
    ),
}  # fmt: skip


def random_params(o: ModelOptions, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), param_shapes(o))


def tiny_model(o: ModelOptions = DEFAULT, **fields) -> ModelFiles:
    """All pixels valid but one patch."""
    mask = np.ones([n * p for n, p in zip(o.grid, o.patch_shape, strict=True)], bool)
    mask[: o.patch_shape[0], : o.patch_shape[1]] = False
    geometry = Geometry("flat-toy", mask, o.patch_shape, (0.0, 1.0, 0.0, 1.0), 0.5)
    preprocessing = {
        "normalize": "global", "no_coord_normalize": True, "clamp": 3.0, "tr": 2.0,
        "stores": [{"kind": "pchip"}],
    }  # fmt: skip
    seen = [{"salt": "pepper", "hashes": ["0123"]}]
    return ModelFiles(o, random_params(o), geometry, preprocessing, seen, **fields)


def write_older(directory: Path, state: dict[str, np.ndarray], config: dict) -> Path:
    """Weights as the older release publishes them."""
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def assert_same_params(a: dict, b: dict) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
