"""A tiny model on a tiny ragged map, shared by the tests of the model."""

import jax
import numpy as np

from data_tools.spaces.geometry import Geometry
from fmrifm.model.mae import MaskedAutoencoder
from fmrifm.model.masking import clip_keys
from fmrifm.model.objective import Objective, Pixels
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import patchify


def toy_map() -> Geometry:
    """8 x 12 pixels in patches of 2: 20 of the 24 patches are cortical, some in part."""
    mask = np.ones((8, 12), bool)
    mask[:2, :2] = mask[-2:, -2:] = mask[:2, -2:] = mask[-2:, :2] = False
    mask[0, 4] = mask[5, 11] = False
    return Geometry("toy", mask, (2, 2))


def options(**kwargs) -> ModelOptions:
    defaults = dict(
        grid=(4, 6), patch_shape=(2, 2), num_frames=8, t_patch=4, embed_dim=16, depth=1,
        num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, mask_ratio=0.7,
        head_init_scale=1.0,
    )  # fmt: skip
    return ModelOptions(**{**defaults, **kwargs})


def objective(o: ModelOptions) -> Objective:
    return Objective(MaskedAutoencoder(o), toy_map())


def clips(o: ModelOptions, batch: int, seed: int = 0, missing: float = 0.1) -> Pixels:
    """Random clips of which a share of pixels is missing, zero off the mask."""
    rng, geometry = np.random.default_rng(seed), toy_map()
    shape = (batch, o.in_chans, o.frames, *geometry.mask.shape)
    valid = geometry.mask & (rng.random((batch, 1, 1, *geometry.mask.shape)) >= missing)
    valid = np.broadcast_to(valid, shape)
    values = rng.normal(size=shape).astype(np.float32) * valid
    values, valid = (np.asarray(patchify(x, geometry, o)) for x in (values, valid))
    return Pixels(values, valid, valid, valid)


def keys(n: int, seed: int = 0) -> jax.Array:
    words = np.stack([np.arange(n), np.full(n, 7)], 1).astype(np.uint32)
    return clip_keys(jax.random.key(seed), words)
