"""A grid of heads: one batched computation that equals its parts."""

import dataclasses

import jax
import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.probe.heads import grid
from fmrifm.probe.heads.grid import draw_order, fit_grid, train_grid
from fmrifm.probe.heads.heads import HEADS
from fmrifm.probe.heads.settings import GridSettings, lr_schedule

SMALL = GridSettings(
    lr=1e-2, lr_multipliers=(0.1, 1.0, 3.0), epochs=3, updates=8, warmup_epochs=1, batch_size=12
)


class Arrays:
    """Features in memory."""

    def __init__(self, x, keep=None):
        self.x, self.keep = x, np.ones(x.shape[:2], bool) if keep is None else keep
        self.shape = x.shape

    def read(self, index):
        return self.x[index], self.keep[index]


def data(n=60, seed=0, effect=1.0, k=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = rng.normal(size=(n, 5, 64)).astype(np.float32)
    x[:, 2, :k] += effect * 8 * np.eye(k)[y]
    return Arrays(x), y


@pytest.mark.parametrize("kind", HEADS)
def test_heads_of_a_grid_are_those_trained_alone(kind):
    tokens, labels = data()
    for together in train_grid(kind, tokens, labels, 3, SMALL, 0):
        last = jax.device_get(together.params)
    for g, multiplier in enumerate(SMALL.lr_multipliers):
        alone = dataclasses.replace(SMALL, lr_multipliers=(multiplier,))
        for state in train_grid(kind, tokens, labels, 3, alone, 0):
            params = jax.device_get(state.params)
        for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a[g], b[0], atol=2e-4 * max(1e-3, np.abs(b).max()))


@pytest.mark.parametrize("kind", HEADS)
def test_the_best_head_finds_an_effect_and_only_that(kind):
    for effect, low, high in ((1.0, 0.7, 1.0), (0.0, 0.1, 0.6)):
        train, val, test = (data(60, seed, effect) for seed in range(3))
        fitted = fit_grid(kind, train, val, 3, SMALL)
        scores = fitted.predict_values(test[0])
        assert scores.shape == (60, 3) and np.allclose(scores.sum(1), 1, atol=1e-5)
        assert low <= (scores.argmax(1) == test[1]).mean() <= high
        assert fitted.hparams["epoch"] in (1, 2, 3) and fitted.diverged == 0


def test_a_head_that_diverges_is_counted_and_the_others_go_on():
    train, val = data(60, 0), data(60, 1)
    settings = dataclasses.replace(SMALL, lr_multipliers=(1.0, 1e6))
    fitted = fit_grid("attn", train, val, 3, settings)
    assert fitted.diverged == 1 and fitted.hparams["lr"] == pytest.approx(1e-2)
    states = list(train_grid("attn", *train, 3, settings, 0))
    assert not np.asarray(states[-1].params["kv"]["kernel"][1]).any()
    with pytest.raises(InputError, match="Every head"):
        fit_grid("attn", train, val, 3, dataclasses.replace(SMALL, lr_multipliers=(1e6,)))


def test_micro_batches_change_nothing_but_memory(monkeypatch):
    tokens, labels = data()
    results = []
    for memory in (2**29, 5 * 4 * (64 + 9) * 5):
        monkeypatch.setattr(grid, "_MEMORY", memory)
        results.append(
            [jax.device_get(s.params) for s in train_grid("attn", tokens, labels, 3, SMALL, 0)]
        )
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1e-3, np.abs(b).max()))


def test_the_schedule_is_that_of_the_reference():
    schedule = lr_schedule(GridSettings(epochs=4, updates=5, warmup_epochs=1), 5)
    assert len(schedule) == 20
    np.testing.assert_allclose(schedule[:6], [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(schedule[[12, 19]], [0.5, 0], atol=1e-12)
    with pytest.raises(InputError, match="warmup_epochs"):
        GridSettings(epochs=1)


def test_balanced_sampling_draws_classes_equally():
    labels = np.array([0] * 90 + [1] * 10)
    for balanced, share in ((True, 0.5), (False, 0.1)):
        settings = dataclasses.replace(SMALL, balanced_sampling=balanced, updates=100)
        drawn = labels[draw_order(labels, settings, 0)]
        assert drawn.mean() == pytest.approx(share, abs=0.03)


def test_weight_decay_shrinks_kernels_and_no_biases():
    tokens, labels = data(effect=0.0)
    norms = []
    for decay in (0.0, 30.0):
        settings = dataclasses.replace(SMALL, weight_decay=decay, lr_multipliers=(1.0,))
        *_, state = train_grid("linear", tokens, labels, 3, settings, 0)
        norms.append(
            [float(np.abs(state.params["out"][name]).mean()) for name in ("kernel", "bias")]
        )
    assert norms[1][0] < 0.5 * norms[0][0] and norms[1][1] > 0.5 * norms[0][1]


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_regression(loss):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(64, 2)).astype(np.float32)

    def split(n):
        x = rng.normal(size=(n, 1, 64)).astype(np.float32)
        return Arrays(x), x[:, 0] @ weights / 8

    train, val, test = split(300), split(50), split(50)
    settings = dataclasses.replace(SMALL, loss=loss, epochs=8, updates=40)
    values = fit_grid("linear", train, val, 2, settings).predict_values(test[0])
    assert np.corrcoef(values.ravel(), test[1].ravel())[0, 1] > 0.95
