"""Augmentations agree with their formulas in plain NumPy, and the draws with the spec."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input import augment
from fmrifm.input.augment import Augmentation
from tests.conftest import toy_geometry

GEOMETRY = toy_geometry()
SHAPE = GEOMETRY.mask.shape
draw_windows = jax.jit(augment.draw_windows, static_argnums=(1, 2))
draw_boxes = jax.jit(augment.draw_boxes, static_argnums=1)
draw_factors = jax.jit(augment.draw_factors, static_argnums=1)
scale_tr = jax.jit(augment.scale_tr, static_argnums=(2, 3))
resize_windows = jax.jit(augment.resize_windows, static_argnums=2)
resize_boxes = jax.jit(functools.partial(augment.resize_boxes, geometry=GEOMETRY, limit=3.0))


def clips(seed, batch, frames=4):
    """Clamped noise with 5 % of the pixels missing: bold (B, T, N, P), valid (B, N, P)."""
    rng = np.random.default_rng(seed)
    valid = GEOMETRY.to_patches(GEOMETRY.mask & (rng.random((batch, *SHAPE)) > 0.05))
    bold = rng.normal(scale=2, size=(batch, frames, *valid.shape[1:]))
    return (np.clip(bold, -3, 3) * valid[:, None]).astype(np.float32), valid


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@st.composite
def windows(draw, longest=20):
    length = draw(st.integers(1, longest))
    return draw(st.integers(0, longest - length)), length


@settings(max_examples=60, deadline=None)
@given(windows(), st.floats(-2, 2), st.integers(0, 1000))
def test_a_window_is_resized_linearly_from_its_own_frames(window, slope, seed):
    start, length = window
    ramp = slope * np.arange(length)  # a constant where the slope is zero
    noise = np.random.default_rng(seed).normal(size=length)
    bold = np.full((1, 20, 1, 2), np.nan, np.float32)  # not to be touched outside the window
    bold[0, start : start + length, 0] = np.stack([ramp, noise], axis=1)
    ours = resize_windows(bold, np.int32([window]), 16)[0, :, 0]
    times = (np.arange(16) + 0.5) * length / 16 - 0.5
    expected = [np.interp(times, np.arange(length), series) for series in (ramp, noise)]
    np.testing.assert_allclose(ours, np.stack(expected, axis=1), atol=2e-5)


def test_windows_are_uniform_from_shortest_to_longest_and_lie_in_what_was_read():
    longest = Augmentation(tr_scale=0.8).frames_read(16)
    assert longest == 20 and Augmentation().frames_read(16) == 16
    start, length = np.asarray(draw_windows(keys(4000), 13, longest)).T
    counts = np.bincount(length, minlength=21)
    assert counts[:13].sum() == 0 and np.all(np.abs(counts[13:] - 500) < 110)  # 5 sigma
    for frames in range(13, 21):
        starts = start[length == frames]
        assert set(starts) == set(range(20 - frames + 1))
    # Seen from outside: of the 20 frames ten are one, and a clip's mean is their share of it.
    bold = jnp.ones((64, 20, 1, 1)).at[:, 10:].set(0)
    seen = scale_tr(keys(64), bold, 16, 0.8)[..., 0, 0].mean(1)
    np.testing.assert_allclose(seen, np.clip((10 - start) / length, 0, 1)[:64], atol=0.03)
    with pytest.raises(ValueError, match="16 frames were read, 20 are needed"):
        scale_tr(keys(2), jnp.zeros((2, 16, 1, 1)), 16, 0.8)


def keys_kernel(x):
    """Keys (1981), equation 4 with a = -1/2."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resized(series, size):
    """(length, ...) -> (size, ...): the nearest taps of each pixel, those that exist."""
    length, out = len(series), []
    for pixel in range(size):
        place = (pixel + 0.5) * length / size - 0.5
        first = int(np.floor(place)) - 1
        taps = [i for i in range(first, first + 4) if 0 <= i < length]
        taps = [(i, keys_kernel(i - place)) for i in taps]
        out.append(sum(w * series[i] for i, w in taps) / sum(w for _, w in taps))
    return np.stack(out)


def test_crops_agree_with_the_formula():
    boxes = np.int32([[[3, 5], [20, 40]], [[0, 0], [1, 2]], [[12, 1], [20, 63]], [[9, 9], [7, 30]]])
    bold, valid = clips(0, len(boxes))
    ours, ours_valid = resize_boxes(bold, valid, boxes)
    overshoot = 0
    for row, ((top, left), (h, w)) in enumerate(boxes):
        box = np.s_[..., top : top + h, left : left + w]
        frames = GEOMETRY.to_frames(bold[row]).astype(np.float64)[box]
        frames = np.moveaxis(resized(np.moveaxis(frames, 1, 0), SHAPE[0]), 0, 1)
        frames = np.moveaxis(resized(np.moveaxis(frames, 2, 0), SHAPE[1]), 0, 2)
        rows, columns = np.arange(SHAPE[0]) * h // SHAPE[0], np.arange(SHAPE[1]) * w // SHAPE[1]
        kept = GEOMETRY.mask & GEOMETRY.to_frames(valid[row])[box][rows][:, columns]
        np.testing.assert_array_equal(ours_valid[row], GEOMETRY.to_patches(kept))
        expected = GEOMETRY.to_patches(np.clip(frames, -3, 3) * kept)
        np.testing.assert_allclose(ours[row], expected, atol=1e-5)
        overshoot = max(overshoot, np.abs(frames).max())
    assert overshoot > 3.3 and np.abs(ours).max() == 3  # what the second clamp is for


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10000), scale=st.floats(0.05, 0.99), aspect=st.floats(0.3, 1))
def test_crops_stay_within_the_clamp_the_frame_and_the_mask(seed, scale, aspect):
    boxes = draw_boxes(keys(8, seed), SHAPE, scale, aspect)
    (corner, sides), frame = np.moveaxis(np.asarray(boxes), 1, 0), np.array(SHAPE)
    assert np.all(corner >= 0) and np.all(sides >= 1) and np.all(corner + sides <= frame)
    height, width = (sides / frame).T
    slack = 0.5 / sides.min(1)  # sides are rounded
    whole = (sides == frame).all(1)
    assert np.all(whole | (height * width > scale * (1 - slack) ** 2 - 0.01))
    assert np.all(np.abs(np.log(width / height)) < -np.log(aspect) + 3 * slack)
    bold, valid = clips(seed, len(boxes))
    ours, ours_valid = resize_boxes(bold, valid, boxes)
    ours, ours_valid = np.asarray(ours), np.asarray(ours_valid)
    assert ours.dtype == np.float32 and np.abs(ours).max() <= 3
    assert not (ours_valid & ~GEOMETRY.patch_mask).any()
    assert not ours[np.broadcast_to(~ours_valid[:, None], ours.shape)].any()


def test_boxes_follow_the_spec():
    top_left, sides = np.moveaxis(np.asarray(draw_boxes(keys(4000), (224, 560), 0.5, 1)), 1, 0)
    area = (sides / (224, 560)).prod(1)
    np.testing.assert_allclose(np.quantile(area, [0.1, 0.5, 0.9]), [0.55, 0.75, 0.95], atol=0.02)
    places = (top_left + 0.5) / ((224, 560) - sides + 1)
    np.testing.assert_allclose(places.mean(0), 0.5, atol=0.03)
    sides = np.asarray(draw_boxes(keys(4000), (224, 560), 0.1, 0.5))[:, 1]
    ratio = np.log2(sides[:, 1] / sides[:, 0] / 2.5)
    assert ratio.min() < -0.95 and ratio.max() > 0.95 and abs(np.median(ratio)) < 0.05
    # No proposal of almost the whole area fits with another aspect: the whole frame is left.
    sides = np.asarray(draw_boxes(keys(4000), (224, 560), 0.999, 0.1))[:, 1]
    assert np.mean((sides == (224, 560)).all(1)) > 0.9


@pytest.mark.parametrize("size", [64, 224, 560])
def test_nearest_pixels_are_those_of_float32_quotients(size):
    # As in torch; exact division would give 45 other pixels over all crops of 560.
    lengths = np.arange(1, size + 1, dtype=np.int32)
    ours = jax.jit(jax.vmap(lambda length: augment.nearest(0, length, size)))(lengths)
    steps = lengths.astype(np.float32) / np.float32(size)
    np.testing.assert_array_equal(ours, np.floor(steps[:, None] * np.arange(size, dtype="f4")))
    assert np.all(np.asarray(ours) < lengths[:, None])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 1.5), st.floats(0.5, 1.5))
def test_brightness_and_contrast(seed, brightness, contrast):
    bold, valid = clips(seed, 2)
    factors = np.float32([[brightness, contrast], [1, 1]])
    ours = np.asarray(augment.rescale(bold, valid, factors))
    every = np.broadcast_to(valid[:, None], bold.shape)
    before, after = bold[0][every[0]], ours[0][every[0]]
    np.testing.assert_allclose(after.mean(), brightness * before.mean(), atol=1e-5)
    np.testing.assert_allclose(after.std(), brightness * contrast * before.std(), rtol=1e-5)
    assert np.corrcoef(before, after)[0, 1] > 1 - 1e-5 and not ours[~every].any()
    np.testing.assert_allclose(ours[1], bold[1], atol=1e-6)


def test_factors_and_draws_are_independent():
    lengths = draw_windows(keys(4000), 500, 2000)[:, 1]
    heights = draw_boxes(keys(4000), SHAPE, 0.1, 0.5)[:, 1, 0]
    factors = np.asarray(draw_factors(keys(4000), 0.2))
    assert 0.8 <= factors.min() < 0.81 and 1.19 < factors.max() <= 1.2
    numbers = np.stack([lengths, heights, *factors.T])
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.1


@jax.jit
def augmented(keys_B, bold, valid):
    bold = augment.scale_tr(keys_B, bold, 16, 0.8) * valid[:, None]
    bold, valid = augment.crop(keys_B, bold, valid, GEOMETRY, 0.5, 0.8, 3.0)
    return augment.jitter(keys_B, bold, valid, 0.2), valid


def test_each_clip_depends_on_its_own_key_alone():
    (bold, valid), keys_B = clips(1, 4, frames=20), keys(4)
    ours = augmented(keys_B, bold, valid)
    assert ours[0].shape == (4, 16, *valid.shape[1:]) and ours[0].dtype == jnp.float32
    order = np.array([2, 0, 3, 1])
    for again, once in zip(augmented(keys_B[order], bold[order], valid[order]), ours, strict=True):
        np.testing.assert_array_equal(again, once[order])
    same = augmented(keys_B[jnp.zeros(4, int)], bold[[0] * 4], valid[[0] * 4])
    np.testing.assert_array_equal(same[0][1], same[0][0])
    other = augmented(keys(4, seed=1), bold, valid)
    assert not np.array_equal(other[0], ours[0])


def test_off_and_full_frames_change_nothing():
    (bold, valid), off = clips(2, 3), Augmentation()
    np.testing.assert_array_equal(augment.scale_tr(keys(3), bold, 4, off.tr_scale), bold)
    cropped = augment.crop(keys(3), bold, valid, GEOMETRY, off.crop_scale, off.crop_aspect, 3.0)
    full = resize_boxes(bold, valid, np.int32([[[0, 0], SHAPE]] * 3))
    for ours in (cropped, full):
        np.testing.assert_array_equal(ours[0], bold)
        np.testing.assert_array_equal(ours[1], valid)
    np.testing.assert_array_equal(augment.jitter(keys(3), bold, valid, off.gray_jitter), bold)


@pytest.mark.parametrize(
    "field, value",
    [("tr_scale", 1.4), ("crop_scale", 0.0), ("crop_aspect", float("nan")), ("gray_jitter", 1.0)],
)
def test_strengths_out_of_range_are_refused(field, value):
    with pytest.raises(InputError, match=rf"augment.{field}={value} must lie in"):
        Augmentation(**{field: value})


def test_crops_need_an_image():
    parcels = Geometry("parcels", np.ones((400, 1), bool), (1, 1))
    bold, valid = np.zeros((1, 4, 400, 1), np.float32), np.ones((1, 400, 1), bool)
    with pytest.raises(InputError, match="'parcels' is none"):
        augment.crop(keys(1), bold, valid, parcels, 0.5, 1.0, 3.0)
    augment.crop(keys(1), bold, valid, parcels, 1.0, 1.0, 3.0)
