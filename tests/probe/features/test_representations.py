"""What heads are given of samples: all of their clips, in order, each as much as it counts."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from fmrifm.probe.features.representations import (
    Sequences,
    Vectors,
    check_clips,
    sequence,
    standardise,
    vector,
)
from fmrifm.probe.heads.heads import masked_mean


def test_constant_columns_are_those_of_scikit_learn():
    """Else the rounding of their mean becomes a feature."""
    x = np.random.default_rng(0).normal(size=(1111, 30)).astype(np.float32)
    x[:, 1:] = np.linspace(0.1, 999, 29)
    assert (x.std(0)[1:] > 0).any()
    features = {"train": Vectors(x), "test": Vectors(x + np.float32(1e-4))}
    found = standardise(features)
    expected = StandardScaler().fit(x).transform(features["test"].x_SxD)
    np.testing.assert_array_equal(found["test"].x_SxD, expected)
    assert np.abs(found["test"].x_SxD[:, 1:]).max() < 0.01
    assert found["train"].x_SxD[:, 0].std() == pytest.approx(1, abs=1e-3)


def first_of(counts):
    return np.concatenate([[0], np.cumsum(counts)])


def samples_of(counts):
    """All that representations ask of samples."""
    return SimpleNamespace(
        first_S1=first_of(counts), keys=np.array(list("abcdefgh"[: len(counts)]))
    )


def make_features(n_clips, n_tokens=4, width=3, n_reg=2, seed=0):
    """Arrays of clips as `encode` makes them; about one clip in four has no data."""
    rng = np.random.default_rng(seed)
    has_data = (rng.random((n_clips, n_tokens)) < 0.6) & (rng.random((n_clips, 1)) < 0.75)
    patch = rng.normal(size=(n_clips, n_tokens, width)) * has_data[:, :, None]
    patch = patch.astype(np.float16)
    mean = patch.astype(np.float64).sum(1) / np.maximum(has_data.sum(1), 1)[:, None]
    return {
        "cls": rng.normal(size=(n_clips, width)).astype(np.float32),
        "avg_patch": mean.astype(np.float32),
        "reg": rng.normal(size=(n_clips, n_reg, width)).astype(np.float32),
        "patch": patch,
        "has_data": has_data,
    }


def test_tokens_of_samples_of_one_and_of_three_clips():
    x = np.arange(4 * 2, dtype=np.float16).reshape(4, 2, 1)
    keep = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool)
    extra = np.array([[100.0], [200]], np.float32)
    tokens = Sequences(x, keep, first_of([1, 3]), extra)
    assert tokens.shape == (2, 6, 1)
    values, counts = tokens.read(np.array([1, 0]))
    assert values.dtype == np.float32 and counts.dtype == bool
    assert values[0, :, 0].tolist() == [102, 203, 104, 205, 106, 207]
    assert values[1, :2, 0].tolist() == [100, 201]
    assert counts.astype(int).tolist() == [[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]]
    assert np.isfinite(values).all()  # padding too
    assert x.max() == 7  # which may be a file
    values, counts = Sequences(x, None, first_of([1, 3])).read(np.array([0]))
    assert counts.astype(int).tolist() == [[1, 1, 0, 0, 0, 0]]


COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(counts=COUNTS, n_tokens=st.integers(1, 4), draw=st.data(), seed=st.integers(0, 999))
def test_what_counts_of_a_sample_are_the_tokens_of_its_clips_in_order(counts, n_tokens, draw, seed):
    features = make_features(sum(counts), n_tokens, seed=seed)
    index_B = np.array(draw.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=5)))
    tokens = sequence("patch", features, samples_of(counts))
    x, keep = tokens.read(index_B)
    n_samples, length, width = tokens.shape
    assert (n_samples, length, width) == (len(counts), max(counts) * n_tokens, 3)
    assert x.shape == (len(index_B), length, width) and keep.shape == x.shape[:2]
    for row, s in enumerate(index_B):
        clips = slice(*first_of(counts)[s : s + 2])
        has_data = features["has_data"][clips].ravel()
        assert keep[row].tolist() == has_data.tolist() + [False] * (length - len(has_data))
        expected = features["patch"][clips].reshape(-1, width)
        np.testing.assert_array_equal(x[row, : len(expected)], expected)


@settings(max_examples=80, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 999))
def test_avg_patch_is_the_mean_of_all_tokens_with_data(counts, seed):
    features, samples = make_features(sum(counts), seed=seed), samples_of(counts)
    x, keep = sequence("patch", features, samples).read(np.arange(len(counts)))
    found = vector("avg_patch", features, samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, masked_mean(x, keep), atol=2e-6)
    both = vector("cls_avg_patch", features, samples)
    np.testing.assert_array_equal(both[:, 3:], found)
    np.testing.assert_array_equal(both[:, :3], vector("cls", features, samples))


@settings(max_examples=40, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 999))
def test_vectors_of_clips_are_averaged_over_the_clips_of_a_sample(counts, seed):
    features, samples = make_features(sum(counts), seed=seed), samples_of(counts)
    first = first_of(counts)
    expected = {
        name: np.stack([features[name][a:b].mean(0) for a, b in pairwise(first)])
        for name in ("cls", "reg", "patch")
    }
    pooled = {
        "cls": expected["cls"],
        "concat_reg": expected["reg"].reshape(len(counts), -1),
        "reg": expected["reg"].reshape(len(counts), -1),
        "avg_reg": expected["reg"].mean(1),
        "patch": expected["patch"].reshape(len(counts), -1),
    }
    for kind, values in pooled.items():
        found = vector(kind, features, samples)
        assert found.dtype == np.float32 and found.shape == values.shape
        np.testing.assert_allclose(found, values, atol=2e-3 if kind == "patch" else 1e-5)


def test_registers_lie_side_by_side_and_each_counts():
    reg = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    features = {"reg": reg}
    assert vector("concat_reg", features, samples_of([1, 1])).tolist() == reg.reshape(2, 6).tolist()
    assert vector("concat_reg", features, samples_of([2])).tolist() == [[3, 4, 5, 6, 7, 8]]
    assert vector("avg_reg", features, samples_of([2])).tolist() == [[4.5, 5.5, 6.5]]
    x, keep = sequence("reg", features, samples_of([2])).read(np.array([0]))
    assert x[0].tolist() == reg.reshape(4, 3).tolist() and keep.all()


def test_a_sample_without_data_is_zero_and_a_clip_without_counts_for_nothing():
    features = {
        "avg_patch": np.array([[0.0], [6.0], [0.0], [0.0]], np.float32),
        "has_data": np.array([[0, 0], [1, 0], [0, 0], [0, 0]], bool),
    }
    found = vector("avg_patch", features, samples_of([2, 2]))
    np.testing.assert_allclose(found, [[6.0], [0.0]], rtol=1e-6)


@pytest.mark.parametrize("index", [[0], [2, 0, 2]])
def test_a_vector_is_a_sequence_of_one_token(index):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    tokens = Vectors(x)
    values, keep = tokens.read(np.array(index))
    assert tokens.shape == (3, 1, 2) and keep.all() and keep.shape == (len(index), 1)
    assert values.tolist() == [[x[i].tolist()] for i in index]


def test_columns_are_standardised_by_the_training_set():
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(50, 3)) * [5, 0.1, 0] + [7, -1, 2]).astype(np.float32)
    test = train[:5] + np.array([5, 0, 1], np.float32)
    found = standardise({"train": Vectors(train), "test": Vectors(test)})
    np.testing.assert_allclose(found["train"].x_SxD.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found["train"].x_SxD.std(0), [1, 1, 0], atol=1e-5)
    shift = found["test"].x_SxD - found["train"].x_SxD[:5]
    np.testing.assert_allclose(shift, np.tile([5 / train[:, 0].std(), 0, 1], (5, 1)), atol=1e-4)


def test_patches_that_go_together():
    """Correlations over clips, slots and values, each value less its own mean; 0 without data."""
    rng, (slots, patches, width) = np.random.default_rng(0), (2, 3, 4)
    tokens = rng.normal(size=(5, slots * patches, width)).astype(np.float16)
    has_data = np.ones((5, slots * patches), bool)
    has_data[:, [2, 5]] = False  # the last patch of both slots
    features = {"patch": tokens * has_data[..., None], "has_data": has_data}
    found = vector("patch_connectome", features, samples_of([2, 3]), slots)
    assert found.shape == (2, 3) and found.dtype == np.float32
    for row, clips in zip(found, (tokens[:2], tokens[2:]), strict=True):
        series = clips.astype(float).reshape(-1, patches, width)
        a, b = (series[:, p] - series[:, p].mean(0) for p in (0, 1))
        expected = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        np.testing.assert_allclose(row, [expected, 0, 0], rtol=1e-4)
    check_clips("patch_connectome", samples_of([2, 1]), 2)
    check_clips("avg_patch", samples_of([2, 1]), 1)
    with pytest.raises(InputError, match="b has a single clip"):
        check_clips("patch_connectome", samples_of([2, 1]), 1)
