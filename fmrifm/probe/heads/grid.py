"""A grid of heads on the same frozen features, trained as one batched computation.

All heads start from the same weights and see the same batches; they differ in learning rate and
weight decay. The best epoch of the best head on the validation set is kept. Source: the probes of
arXiv 2510.13768. Letters: G heads, B samples of a batch, S samples of a split, L tokens, D width, K
outputs.
"""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.input.pipeline import host_batches, on_devices
from fmrifm.probe.heads.heads import HEAD_WIDTH, apply_head, init_head, losses
from fmrifm.probe.heads.settings import GridSettings, head_rates, lr_schedule
from fmrifm.probe.scores.metrics import macro_scores


class Tokens(Protocol):
    """Features of the samples of a split."""

    shape: tuple[int, int, int]  # S, L (the most that a sample has), D

    def read(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, L, D) float32 features of samples, and (B, L) bool which tokens count."""


class Batches:
    """Random access: element i is micro-batch i, a pure function of (seed, i).

    Args:
      n_micro: into how many parts of one size a batch is cut; what is over weighs nothing.
    """

    def __init__(
        self, tokens: Tokens, targets: np.ndarray, settings: GridSettings, seed: int, n_micro: int
    ):
        self._tokens, self._targets, self._n_micro = tokens, targets, n_micro
        self._size = -(-settings.batch_size // n_micro)
        self._batch_size = settings.batch_size
        self._order = draw_order(targets, settings, seed)

    def __len__(self) -> int:
        return len(self._order) // self._batch_size * self._n_micro

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        update, micro = divmod(int(i), self._n_micro)
        place = micro * self._size + np.arange(self._size)
        counted = place < self._batch_size
        first = update * self._batch_size
        index_B = self._order[first + np.where(counted, place, 0)]
        x, keep = self._tokens.read(index_B)
        weight = (counted / self._batch_size).astype(np.float32)
        return {"x": x, "keep": keep, "target": self._targets[index_B], "weight": weight}


def draw_order(targets: np.ndarray, settings: GridSettings, seed: int) -> np.ndarray:
    """Samples in the order in which they are seen: permutations one after another, or by class."""
    rng = np.random.default_rng(seed)
    total = settings.epochs * settings.updates * settings.batch_size
    if not settings.balanced_sampling:
        n_turns = -(-total // len(targets))
        return np.concatenate([rng.permutation(len(targets)) for _ in range(n_turns)])[:total]
    groups = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    which = rng.integers(len(groups), size=total)
    sizes = np.array([len(group) for group in groups])
    place = (rng.random(total) * sizes[which]).astype(np.int64)
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate(groups)[starts[which] + place]


_DIVERGED = 20  # times the loss of a head that knows nothing
_MEMORY = 2**29  # bytes that tokens and scores of a micro-batch may take
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class FittedHead:
    """The head that was chosen.

    Attributes:
      loss: that it was trained with; outputs are logits where it is cross_entropy.
      scale: (mean, standard deviation) of the targets that outputs are in units of.
      hparams: learning rate, weight decay and epoch, and its score on the validation set.
      diverged: how many heads of the grid did.
    """

    kind: str
    params: dict
    loss: str
    scale: tuple[np.ndarray, np.ndarray]
    hparams: dict[str, Any]
    diverged: int

    def predict_values(self, tokens: Tokens) -> np.ndarray:
        """(S, K) float32: probabilities of classes, or values."""
        params = jax.tree.map(lambda x: x[None], self.params)
        values = np.concatenate(list(_outputs(self.kind, params, tokens)), axis=1)[0]
        if self.loss == "cross_entropy":
            return np.asarray(jax.nn.softmax(values, -1))
        mean, std = self.scale
        return values * std + mean


class GridState(NamedTuple):
    """All heads during training; every array has a leading axis G but for `step`."""

    params: dict
    moments: Any
    alive_G: jax.Array
    step: jax.Array


def fit_grid(
    kind: str,
    train: tuple[Tokens, np.ndarray],
    val: tuple[Tokens, np.ndarray],
    n_out: int,
    settings: GridSettings,
    seed: int = 0,
) -> FittedHead:
    """Trains the grid and chooses by the validation set; the first on ties.

    Args:
      train, val: features, and labels (S,) int or targets (S, K) float. Targets of `mse` are
        standardised by column with train's mean and standard deviation, so that learning rates
        suit ages as well as z-scores; predictions are in their own units again.
    """
    best, scale = None, (np.float32(0), np.float32(1))
    if settings.loss == "mse":
        scale = _spread(train[1])
        train, val = ((tokens, (y_SxK - scale[0]) / scale[1]) for tokens, y_SxK in (train, val))
    rates, decays = head_rates(settings)
    for epoch, state in enumerate(train_grid(kind, *train, n_out, settings, seed), 1):
        scores_G = _validate(kind, state, *val, n_out, settings)
        scores_G = np.where(state.alive_G & np.isfinite(scores_G), scores_G, -np.inf)
        g = int(np.argmax(scores_G))
        if scores_G[g] > (best[0] if best else -np.inf):
            params = jax.device_get(jax.tree.map(operator.itemgetter(g), state.params))
            best = scores_G[g], params, g, epoch
    if best is None:
        raise InputError(f"Every head of the grid of '{kind}' diverged: lower the learning rates.")
    score, params, g, epoch = best
    metric = settings.metric if settings.loss == "cross_entropy" else f"negative {settings.loss}"
    hparams = {
        "lr": float(rates[g]),
        "weight_decay": float(decays[g]),
        "epoch": epoch,
        "validation": {"metric": metric, "value": float(score)},
    }
    diverged = int((~np.asarray(state.alive_G)).sum())
    return FittedHead(kind, params, settings.loss, scale, hparams, diverged)


def train_grid(
    kind: str, tokens: Tokens, targets: np.ndarray, n_out: int, settings: GridSettings, seed: int
) -> Iterator[GridState]:
    """Yields the state after each epoch; it is valid until the next is asked for."""
    rates, decays = head_rates(settings)
    n_micro = _n_micro(kind, tokens.shape, settings, len(rates))
    batches = Batches(tokens, targets, settings, seed, n_micro)
    init = init_head(kind, jax.random.key(seed), tokens.shape[2], n_out, settings.inner)
    params = jax.tree.map(lambda x: jnp.repeat(x[None], len(rates), 0), init)
    moments = _ADAM.init(params)
    state = GridState(params, moments, jnp.ones(len(rates), bool), jnp.zeros((), jnp.int32))
    schedule = jnp.asarray(lr_schedule(settings, settings.updates), jnp.float32)
    guess = {"cross_entropy": np.log(n_out), "mse": (targets**2).mean() or 1.0}
    limit = _DIVERGED * float(guess.get(settings.loss, 1.0))
    gradients, update = _programs(kind, settings)
    host = host_batches(batches, 0, threads=2, workers=0)
    bar = tqdm(total=settings.epochs * settings.updates, desc=f"{kind} heads", unit="update")
    sums = None
    with contextlib.closing(host), bar:
        for i, batch in enumerate(on_devices(host, jax.device_put)):
            key = jax.random.fold_in(jax.random.key(seed + 1), i)
            sums = gradients(state.params, batch, key, sums)
            if (i + 1) % n_micro:
                continue
            state = update(state, sums, schedule, rates, decays, limit)
            sums = None
            bar.update()
            if bar.n % settings.updates == 0:
                yield state


def _programs(kind: str, settings: GridSettings) -> tuple[Callable, Callable]:
    """Gradients of a micro-batch added to those before it; and the update by their sum."""

    def loss(params, batch, key):
        out_BxK = apply_head(kind, params, batch["x"], batch["keep"], settings.dropout, key)
        return (losses(settings.loss, out_BxK, batch["target"]) * batch["weight"]).sum()

    @jax.jit
    def gradients(params, batch, key, before):
        now = jax.vmap(jax.value_and_grad(loss), (0, None, None))(params, batch, key)
        return now if before is None else jax.tree.map(jnp.add, now, before)

    def update(state, sums, schedule, rates_G, decays_G, limit):
        loss_G, grads = sums
        alive_G = state.alive_G & (loss_G <= limit)  # false where it is not a number
        squares = [(g**2).sum(range(1, g.ndim)) for g in jax.tree.leaves(grads)]
        norm_G = jnp.sqrt(sum(squares))
        scale_G = jnp.minimum(1, settings.clip_norm / (norm_G + 1e-6))
        grads = jax.tree.map(lambda g: g * _over(scale_G, g), grads)
        steps, moments = _ADAM.update(grads, state.moments)

        def move(p, step):
            decay_G = decays_G if p.ndim > 2 else jnp.zeros_like(decays_G)
            p_new = p - _over(rates_G * schedule[state.step], p) * (step + _over(decay_G, p) * p)
            return jnp.where(_over(alive_G, p), p_new, 0)

        params = jax.tree.map(move, state.params, steps)
        return GridState(params, moments, alive_G, state.step + 1)

    return gradients, jax.jit(update, donate_argnums=0)


def _n_micro(kind: str, shape: tuple[int, int, int], settings: GridSettings, n_heads: int) -> int:
    """Into how many parts a batch is cut so that its tokens and scores fit in memory."""
    # Of scores or hidden values there are, with their gradients, about three copies.
    size = _sample_bytes(kind, shape, 3 * n_heads, settings.inner or shape[2])
    return min(settings.batch_size, max(1, -(-settings.batch_size * size // _MEMORY)))


def _sample_bytes(kind: str, shape: tuple[int, int, int], n_heads: int, inner: int) -> int:
    """Bytes of the tokens of a sample and of what heads make of each of them."""
    per_token = {"linear": 0, "attn": max(1, inner // HEAD_WIDTH), "mlp": inner}[kind]
    return 4 * shape[1] * (shape[2] + n_heads * per_token)


def _validate(
    kind: str,
    state: GridState,
    tokens: Tokens,
    targets: np.ndarray,
    n_out: int,
    settings: GridSettings,
) -> np.ndarray:
    """(G,) scores of all heads on the validation set."""
    parts = _outputs(kind, state.params, tokens)
    if settings.loss == "cross_entropy":
        guess_GxS = np.concatenate([part.argmax(-1) for part in parts], axis=1)
        return macro_scores(targets[None], guess_GxS, n_out)[settings.metric]
    start, total_G = 0, np.zeros(len(state.alive_G))
    for out_GxBxK in parts:
        part = targets[start : start + out_GxBxK.shape[1]]
        total_G += np.asarray(losses(settings.loss, out_GxBxK, part[None])).sum(1)
        start += len(part)
    return -total_G / len(targets)


def _outputs(kind: str, params: dict, tokens: Tokens) -> Iterator[np.ndarray]:
    """(G, B, K) outputs of all heads on parts of a split, in order."""
    n_samples = tokens.shape[0]
    n_heads, inner = params["out"]["kernel"].shape[:2]
    outputs = 16 * n_heads * params["out"]["kernel"].shape[2]  # and what losses make of them
    size = _MEMORY // (_sample_bytes(kind, tokens.shape, 2 * n_heads, inner) + outputs)
    size = max(1, min(n_samples, size))
    for first in range(0, n_samples, size):
        index_B = np.minimum(first + np.arange(size), n_samples - 1)
        out_GxBxK = _apply_all(kind, params, *tokens.read(index_B))
        yield np.asarray(out_GxBxK)[:, : n_samples - first]


@functools.partial(jax.jit, static_argnums=0)
def _apply_all(kind: str, params: dict, x_BxLxD: jax.Array, keep_BxL: jax.Array) -> jax.Array:
    return jax.vmap(lambda one: apply_head(kind, one, x_BxLxD, keep_BxL))(params)


def _spread(targets_SxK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K,) float32 mean and standard deviation of each column, 1 where it is constant."""
    mean_K, std_K = targets_SxK.mean(0, dtype=np.float64), targets_SxK.std(0, dtype=np.float64)
    std_K = np.where(std_K > _TINY, std_K, 1)
    return mean_K.astype(np.float32), std_K.astype(np.float32)


def _over(values_G: jax.Array, like: jax.Array) -> jax.Array:
    return values_G.reshape(-1, *(1,) * (like.ndim - 1))
