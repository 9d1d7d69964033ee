"""The pure training and evaluation steps.

`(state, batch) -> (state, metrics)`: everything between the stored float16 bytes and the new
parameters happens in here, compiled once, without a value read back to the host. Letters: B clips,
M tokens, Q predicted tokens, V values of a token.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from fmrifm.input.preprocess import Tokenizer, Tokens
from fmrifm.model.mae import MaskedAutoencoder
from fmrifm.model.masking import Mask, clip_keys, draw_mask
from fmrifm.model.targets import LossSums, loss_sums, repeated, strided
from fmrifm.trainer.optimizer import clip_factor


@flax.struct.dataclass
class TrainState:
    """Arrays only; what is static stays outside.

    Attributes:
      step: int32, updates done.
      params: float32 tree.
      opt_state: the optimizer's tree.
      first_bad_step: int32, the first update whose loss or gradient was not finite, else -1.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    first_bad_step: jax.Array


def init_state(params, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.int32(0), params, tx.init(params), jnp.int32(-1))


def stream_key(seed: int, stream: str) -> jax.Array:
    """The root key of a named stream of randomness."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """Masked autoencoding of a batch on one geometry. A new objective replaces this class.

    Attributes:
      model: the network.
      tokenizer: from the batch's bytes to tokens.
    """

    model: MaskedAutoencoder
    tokenizer: Tokenizer

    def prepare(self, batch: dict, key: jax.Array) -> tuple[Tokens, Mask]:
        """Tokens of the batch and a mask for each clip from its own key."""
        tokens = self.tokenizer(batch["bold"], batch["valid"])
        keys_B = clip_keys(key, batch["words"])
        return tokens, draw_mask(keys_B, tokens.has_data_BxM, self.model.options)

    def predict(self, params, tokens: Tokens, mask: Mask) -> jax.Array:
        """(B, Q, target_dim) float32."""
        place_M = jnp.asarray(self.tokenizer.place(self.model.options.slots))
        variables = {"params": params}
        return self.model.apply(variables, tokens.values_BxMxV, tokens.has_data_BxM, place_M, mask)[
            0
        ]

    def sums(self, params, batch: dict, key: jax.Array) -> LossSums:
        """Numerator and denominator of the loss over the clips of the batch that count."""
        tokens, mask = self.prepare(batch, key)
        preds = self.predict(params, tokens, mask)
        options, queries = self.model.options, mask.queries_BxQ[:, :, None]
        targets = strided(jnp.take_along_axis(tokens.values_BxMxV, queries, axis=1), options)
        weight = strided(jnp.take_along_axis(tokens.valid_BxMxV, queries, axis=1), options)
        return loss_sums(preds, targets, weight & batch["counted"][:, None, None])


def make_train_step(
    objective: Objective, update: Callable, *, seed: int, accumulation: int
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """One step: the gradient of the batch's loss, then `update` (see `make_update`)."""

    def error_and_sums(params, batch, key):
        sums = objective.sums(params, batch, key)
        return sums.error, sums

    grad_fn = jax.grad(error_and_sums, has_aux=True)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = stream_key(seed, "mask")
        grads, sums = accumulated(
            lambda part: grad_fn(state.params, part, key), batch, accumulation
        )
        return update(state, grads, sums)

    return train_step


def make_update(
    tx: optax.GradientTransformation, schedule: Callable, clip_norm: float
) -> Callable[[TrainState, Any, LossSums], tuple[TrainState, dict]]:
    """The new state from the gradient of the summed error.

    Metrics: loss, loss_of_zero (of predicting zero), grad_norm (before clipping), lr,
    first_bad_step.
    """

    def update(state: TrainState, grads, sums: LossSums) -> tuple[TrainState, dict]:
        pixels = jnp.maximum(sums.pixels, 1)
        grads = jax.tree.map(lambda g: g / pixels, grads)
        loss, norm = sums.error / pixels, optax.tree.norm(grads)
        lr = schedule(state.step + 1)  # the recipe's update i = 1..T uses s[i]
        grads = jax.tree.map(lambda g: g * clip_factor(norm, clip_norm), grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
        # A non-finite step changes nothing but the mark; reading the mark is the host's business.
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
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
            "loss_of_zero": sums.power / pixels,
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


def make_eval_step(objective: Objective) -> Callable[[Any, dict], LossSums]:
    """The loss sums of a batch; masks depend on the clip alone, not on the seed or the step."""
    return lambda params, batch: objective.sums(params, batch, stream_key(0, "evaluation mask"))


def make_reconstruct(objective: Objective) -> Callable[[Any, dict], dict]:
    """What figures show: `truth`, `masked` and `prediction` as (B, T, N, P), and `visible` (B, N).

    The prediction fills the masked tokens; visible tokens show the truth.
    """
    options = objective.model.options

    def frames(tokens_BxMxV):
        batch = tokens_BxMxV.shape[0]
        split = tokens_BxMxV.reshape(batch, options.slots, -1, options.t_patch, options.patch_dim)
        return jnp.swapaxes(split, 2, 3).reshape(batch, options.num_frames, -1, options.patch_dim)

    def reconstruct(params, batch):
        tokens, mask = objective.prepare(batch, stream_key(0, "evaluation mask"))
        preds = repeated(objective.predict(params, tokens, mask), options)
        rows = jnp.arange(preds.shape[0])[:, None]
        values, valid = tokens.values_BxMxV, tokens.valid_BxMxV
        shown = jnp.zeros(values.shape[:2], bool).at[rows, mask.visible_BxL].set(True)
        predicted = values.at[rows, mask.queries_BxQ].set(preds)
        return {
            "truth": frames(values),
            "masked": frames(jnp.where(shown[:, :, None], values, jnp.nan)),
            "prediction": frames(predicted * valid),
        }

    return reconstruct
