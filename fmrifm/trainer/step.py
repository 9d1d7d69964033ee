"""The pure training and evaluation steps.

`(state, batch) -> (state, metrics)`: everything between the stored float16 bytes and the new
parameters happens in here, compiled once, without a value read back to the host. Letters: B clips,
M tokens, V values of a token.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fmrifm.input.preprocess import Tokenizer
from fmrifm.model.masking import Mask, clip_keys, marked
from fmrifm.model.objective import Noise, Objective, Outcome, Pixels
from fmrifm.model.targets import LossSums
from fmrifm.runs.checkpoint import TrainState
from fmrifm.trainer.optimizer import clip_factor


def init_state(params, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.int32(0), params, tx.init(params), jnp.int32(-1))


def stream_key(seed: int, stream: str) -> jax.Array:
    """The root key of a named stream of randomness."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """From a batch's bytes to what the objective says of them.

    Attributes:
      tokenizer: from bytes to tokens.
      objective: from tokens to predictions and loss sums.
    """

    tokenizer: Tokenizer
    objective: Objective

    def train(self, params, batch: dict, seed: int) -> LossSums:
        """Numerator and denominator of the loss, with all that is random in training."""

        def keys(stream: str) -> jax.Array:
            return clip_keys(stream_key(seed, stream), batch["words"])

        pixels = self._pixels(batch, keys("augmentation"))
        mask = self.objective.draw(keys("mask"), pixels)
        noise = Noise(keys("input noise"), keys("stochastic depth"))
        return self.objective(params, pixels, mask, batch["counted"], noise).sums

    def evaluate(self, params, batch: dict) -> tuple[Pixels, Mask, Outcome]:
        """The same without augmentation and noise; masks depend on the clip alone, not on seed or
        step.
        """
        pixels, mask = self.masked(batch)
        return pixels, mask, self.objective(params, pixels, mask, batch["counted"])

    def masked(self, batch: dict) -> tuple[Pixels, Mask]:
        """A batch of an evaluation set as tokens, and its masks."""
        pixels = self._pixels(batch)
        keys = clip_keys(stream_key(0, "evaluation mask"), batch["words"])
        return pixels, self.objective.draw(keys, pixels)

    def _pixels(self, batch: dict, keys_B: jax.Array | None = None) -> Pixels:
        values, valid = self.tokenizer(batch, keys_B)
        return Pixels(values, valid, valid, valid)


def make_train_step(
    task: Task, update: Callable, shardings: Any, *, seed: int, accumulation: int
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """One step: the gradient of the batch's loss, then `update` (see `make_update`).

    Gradients take the shardings of the parameters, so that each device updates what it holds.
    """

    def error_and_sums(params, batch):
        sums = task.train(params, batch, seed)
        return sums.error, sums

    grad_fn = jax.grad(error_and_sums, has_aux=True)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        grads, sums = accumulated(lambda part: grad_fn(state.params, part), batch, accumulation)
        grads = jax.lax.with_sharding_constraint(grads, shardings)
        return update(state, grads, sums)

    return train_step


def make_update(
    tx: optax.GradientTransformation, schedule: Callable, clip_norm: float, shardings: Any = None
) -> Callable[[TrainState, Any, LossSums], tuple[TrainState, dict]]:
    """The new state from the gradient of the summed error.

    `shardings` are those of the parameters; without, updates lie where the compiler likes.
    Metrics: loss, loss_zero (of predicting zero), grad_norm (before clipping), lr,
    first_bad_step.
    """

    def update(state: TrainState, grads, sums: LossSums) -> tuple[TrainState, dict]:
        pixels = jnp.maximum(sums.pixels, 1)
        grads = jax.tree.map(lambda g: g / pixels, grads)
        loss, norm = sums.error / pixels, optax.tree.norm(grads)
        lr = schedule(state.step + 1)  # the recipe's update i = 1..T uses s[i]
        grads = jax.tree.map(lambda g: g * clip_factor(norm, clip_norm), grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        if shardings is not None:  # else parameters might move to where an update was computed
            updates = jax.lax.with_sharding_constraint(updates, shardings)
        params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
        # A non-finite step changes nothing but the mark; reading the mark is the host's business.
        # Finite gradients become infinite steps where Adam's state overflows. The norm of the step,
        # not a look at the new parameters: those may then be written over the old ones.
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(lr * optax.tree.norm(updates))
        # One value: without the barrier every fusion of a parameter would sum up all norms again.
        good = jax.lax.optimization_barrier(good)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        first_bad_step = jnp.where(
            good | (state.first_bad_step >= 0), state.first_bad_step, state.step
        )
        metrics = {
            "loss": loss,
            "loss_zero": sums.power / pixels,
            "grad_norm": norm,
            "lr": lr,
            "first_bad_step": first_bad_step,
        }
        return TrainState(state.step + 1, params, opt_state, first_bad_step), metrics

    return update


def accumulated(grad_fn: Callable, batch: dict, parts: int):
    """Sums gradients and loss sums over `parts` micro-batches.

    Micro-batch i takes every parts-th row, so that each stays spread over all devices.
    """
    if parts == 1:
        return grad_fn(batch)
    split = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)
    first = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, first))

    def add(total, part):
        return jax.tree.map(jnp.add, total, grad_fn(part)), None

    return jax.lax.scan(add, zeros, split)[0]


def make_reconstruct(task: Task) -> Callable[[Any, dict], dict]:
    """What figures show: `truth`, `masked` and `prediction`, each (B, T, N, P).

    The prediction fills the tokens that were predicted; visible tokens show the truth, others NaN.
    """
    options = task.objective.model.options

    def frames(tokens_BxMxV):
        batch = tokens_BxMxV.shape[0]
        split = tokens_BxMxV.reshape(batch, options.slots, -1, options.t_patch, options.patch_dim)
        return jnp.swapaxes(split, 2, 3).reshape(batch, options.frames, -1, options.patch_dim)

    def reconstruct(params, batch):
        pixels, mask, outcome = task.evaluate(params, batch)
        values, valid = pixels.values_BxMxV, pixels.valid_BxMxV
        shown, asked = (marked(index, values.shape[1])[:, :, None] for index in mask)
        masked = jnp.where(shown, values, jnp.nan)
        preds = task.objective.restore(outcome, mask)
        return {
            "truth": frames(values),
            "masked": frames(masked),
            "prediction": frames(jnp.where(asked, preds * valid, masked)),
        }

    return reconstruct
