"""The device side of the input agrees with the formulas in plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.augment import Augmentation
from fmrifm.input.preprocess import Tokenizer, normalize
from tests.conftest import toy_geometry


@pytest.mark.parametrize("kind", ["frame", "global"])
def test_normalisation_of_the_golden_case(golden, kind):
    data = golden("utils")
    x, mask = data["norm/in"], data["norm/mask"].astype(bool)
    ours = normalize(jnp.asarray(x)[None], jnp.asarray(mask)[None, None], kind)[0]
    np.testing.assert_allclose(ours, np.clip(data[f"norm/fm_{kind}"], -3, 3), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.1, 10),
    shift=st.floats(-5, 5),
    garbage=st.floats(-1e4, 1e4),
)
def test_normalisation_ignores_scale_and_invalid_pixels(seed, gain, shift, garbage):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 2, 3, 16)).astype(np.float32)
    valid = rng.random((1, 1, 3, 16)) < 0.7
    ours = normalize(jnp.asarray(x), jnp.asarray(valid), "frame")
    moved = np.where(valid, gain * x + shift, garbage)
    np.testing.assert_allclose(
        normalize(jnp.asarray(moved, jnp.float32), jnp.asarray(valid), "frame"), ours, atol=2e-4
    )
    assert np.abs(ours).max() <= 3 and np.all(
        np.asarray(ours)[~np.broadcast_to(valid, x.shape)] == 0
    )


@pytest.mark.parametrize("patch", [0, 8, 4, 2])
def test_tokens_are_the_reference_order_at_every_patch_size(patch):
    geometry = toy_geometry()
    rng = np.random.default_rng(0)
    frames = (rng.normal(size=(2, 8, *geometry.mask.shape)) * geometry.mask).astype(np.float16)
    missing = geometry.mask & (rng.random(geometry.mask.shape) < 0.05)
    valid = geometry.to_patches(geometry.mask & ~missing)
    bits = np.tile(np.packbits(valid.reshape(-1)), (2, 1))
    tokenizer = Tokenizer(geometry, 8, t_patch=4, patch=patch, normalize="none")
    batch = {"bold": geometry.to_patches(frames), "valid": bits}
    tokens = tokenizer(jax.tree.map(jnp.asarray, batch))
    p = patch or 8
    fine = tokenizer.geometry
    assert fine.patch_shape == (p, p) and tokens.values_BxMxV.shape[1] == 2 * fine.n_patches
    clean = np.where(missing, 0, np.clip(frames, -3, 3)).astype(np.float32)
    # b (t u) (h p) (w q) -> b (t h w) (u p q), cortical patches only
    rows, columns = fine.grid
    grid = clean.reshape(2, 2, 4, rows, p, columns, p).transpose(0, 1, 3, 5, 2, 4, 6)
    full = grid.reshape(2, 2 * rows * columns, -1)
    places = np.concatenate([fine.patch_index, fine.patch_index + rows * columns])
    np.testing.assert_array_equal(tokens.values_BxMxV, full[:, places])
    np.testing.assert_array_equal(
        np.asarray(tokens.valid_BxMxV[0, : fine.n_patches]).reshape(-1, 4, p * p)[:, 0],
        fine.to_patches(geometry.mask & ~missing),
    )


def test_patches_that_do_not_cut_are_refused():
    with pytest.raises(InputError, match="model.patch=3"):
        Tokenizer(toy_geometry(), 8, 4, 3).geometry  # noqa: B018
    parcels = Geometry("parcels", np.ones((400, 1), bool), (1, 1))
    assert Tokenizer(parcels, 8, 4, 0).geometry is parcels
    cubes = Geometry("cubes", np.ones((465, 512), bool), (1, 512))
    assert Tokenizer(cubes, 8, 4, (1, 512)).geometry is cubes
    with pytest.raises(InputError, match="data.normalize"):
        dataclasses.replace(Tokenizer(parcels, 8, 4, 0), normalize="zscore")
    with pytest.raises(InputError, match="augment.crop_scale"):
        Tokenizer(parcels, 8, 4, 0, augmentation=Augmentation(crop_scale=0.5))


def test_runs_before_z_scoring():
    """Undone with the stored scale, then normalised over the clip."""
    geometry, rng = toy_geometry(), np.random.default_rng(0)
    shape = (2, 8, geometry.n_patches, geometry.patch_dim)
    bold = rng.normal(size=shape).astype(np.float16)
    mean, std = rng.normal(100, 20, shape[:1] + shape[2:]), rng.uniform(1, 5, shape[:1] + shape[2:])
    valid = geometry.patch_mask
    batch = {
        "bold": bold,
        "valid": np.tile(np.packbits(valid.reshape(-1)), (2, 1)),
        "mean": mean.astype(np.float32),
        "std": std.astype(np.float32),
    }
    tokenizer = Tokenizer(geometry, 8, t_patch=8, patch=0, normalize="none")
    found = np.asarray(tokenizer(jax.tree.map(jnp.asarray, batch)).values_BxMxV)
    raw = (bold * std[:, None] + mean[:, None])[:, :, valid]
    expected = (raw - raw.mean((1, 2), keepdims=True)) / raw.std((1, 2), keepdims=True, ddof=1)
    found = found.reshape(2, geometry.n_patches, 8, -1).swapaxes(1, 2)[:, :, valid]
    np.testing.assert_allclose(found, np.clip(expected, -3, 3), atol=1e-4)
