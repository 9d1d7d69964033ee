"""AdamW with masked weight decay, and the learning-rate schedule of the recipe."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from data_tools.errors import InputError


def peak_learning_rate(optim: Mapping, batch_size: int) -> float:
    """The absolute rate: `lr`, or `base_lr` per 256 clips, by default the recipe's 1e-3.

    Raises:
      InputError: both are given.
    """
    lr, base_lr = optim["lr"], optim["base_lr"]
    if lr is not None and base_lr is not None:
        raise InputError("optim.lr (absolute) and optim.base_lr (per 256 clips): give only one.")
    if lr is not None:
        return lr
    return (1e-3 if base_lr is None else base_lr) * batch_size / 256


def make_schedule(peak: float, warmup_steps: int, total_steps: int) -> Callable:
    """s[j] = peak * j / (W - 1) for j < W, then a cosine to 0 at j = T, then 0.

    optax's warm-up cosine differs in both ends. Takes and returns arrays or numbers.
    """

    def schedule(j):
        j = jnp.asarray(j, jnp.float32)
        warmup = peak * j / max(1, warmup_steps - 1)
        progress = (j - warmup_steps) / max(1, total_steps - warmup_steps)
        cosine = peak / 2 * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(j < warmup_steps, warmup, jnp.where(j < total_steps, cosine, 0.0))

    return schedule


def decays(path: tuple) -> bool:
    """Whether a parameter decays: all but biases and norms (tokens and positions do)."""
    names = [str(getattr(key, "key", key)) for key in path]
    return names[-1] != "bias" and not any("norm" in name for name in names)


def make_optimizer(optim: Mapping) -> optax.GradientTransformation:
    """Adam moments plus decoupled decay; the step multiplies by the learning rate."""
    return optax.chain(
        optax.scale_by_adam(b1=optim["b1"], b2=optim["b2"], eps=1e-8),
        optax.add_decayed_weights(
            optim["weight_decay"],
            mask=lambda params: jax.tree_util.tree_map_with_path(
                lambda path, _: decays(path), params
            ),
        ),
    )


def clip_factor(norm: jax.Array, clip_norm: float) -> jax.Array:
    """What gradients are multiplied by so that their norm is at most `clip_norm`; 0 never clips.

    With PyTorch's 1e-6 in the denominator, as the published models were trained.
    """
    if not clip_norm:
        return jnp.float32(1)
    return jnp.minimum(1, clip_norm / (norm + 1e-6))
