"""AdamW or Muon with masked weight decay, and the learning-rate schedule of the recipe."""

import functools
import math
from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import optax
from flax.core.meta import AxisMetadata

from data_tools.errors import InputError, check_choice
from fmrifm.trainer.mesh import on_whole_matrices

MOMENTUM = 0.95
ITERATIONS = 5
# Of the source, which lifts small singular values fast and lets large ones end around 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of an update, Adam's in practice, so that Adam's learning rate and decay suit
# both. Source: Liu et al. 2025, arXiv 2502.16982, section 2.2.
UPDATE_RMS = 0.2


def is_block_matrix(path: tuple) -> bool:
    """Whether a parameter is the kernels of a stack of blocks, one (I, O) matrix a layer.

    Those of attention are matrices over all heads: queries, keys and values (D, H K), the output
    projection (H K, D).
    """
    names = [str(getattr(key, "key", key)) for key in path]
    return "layers" in names and names[-1] == "kernel"


def scale_by_muon() -> optax.GradientTransformation:
    """Nesterov momentum in the parameters' dtype, made orthogonal, at Adam's typical size.

    Takes (N, I, O) kernels only. Not optax's `scale_by_muon`: that computes every matrix on every
    device that holds a part of it, and keeps constants in its state.
    """

    def direction(momentum_NxIxO: jax.Array) -> jax.Array:
        scale = UPDATE_RMS * math.sqrt(max(momentum_NxIxO.shape[1:]))
        return scale * on_whole_matrices(orthogonalize, momentum_NxIxO)

    return optax.chain(
        optax.trace(MOMENTUM, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(direction, updates)),
    )


def orthogonalize(x_NxIxO: jax.Array) -> jax.Array:
    """U V' of every matrix U S V', roughly: its singular values become 0.68 to 1.21.

    Five Newton-Schulz iterations from a Frobenius norm of 1; singular values below a five-hundredth
    of that norm stay smaller. A matrix of zeros stays zero.
    """
    tall = x_NxIxO.shape[1] > x_NxIxO.shape[2]
    x = jnp.swapaxes(x_NxIxO, 1, 2) if tall else x_NxIxO  # the smaller square is the cheaper
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)
    a, b, c = COEFFICIENTS

    def iteration(_, x):
        square = x @ jnp.swapaxes(x, 1, 2)
        return a * x + (b * square + c * square @ square) @ x

    x = jax.lax.fori_loop(0, ITERATIONS, iteration, x)  # written out, it takes long to compile
    return jnp.swapaxes(x, 1, 2) if tall else x


# How the rate grows with the batch. `linear` is that of the recipe, and is meant for SGD (Goyal et
# al. 2017, arXiv 1706.02677); `sqrt` is Adam's (Malladi et al. 2022, arXiv 2205.10287).
LR_SCALING = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}
OPTIMIZERS = ("adamw", "muon")


def peak_learning_rate(optim: Mapping, batch_size: int) -> float:
    """The absolute rate: `lr`, or `base_lr` at 256 clips (by default the recipe's 1e-3), scaled."""
    lr, base_lr, rule = optim["lr"], optim["base_lr"], optim["lr_scaling"]
    check_choice("optim.lr_scaling", rule, LR_SCALING)
    if lr is not None and base_lr is not None:
        raise InputError("optim.lr (absolute) and optim.base_lr (per 256 clips): give only one.")
    if lr is not None:
        return lr
    return (1e-3 if base_lr is None else base_lr) * LR_SCALING[rule](batch_size / 256)


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


def make_optimizer(optim: Mapping, given: Collection[str] = ()) -> optax.GradientTransformation:
    """Directions plus decoupled decay; the step multiplies by the learning rate.

    Directions are Adam's of all parameters (`adamw`), or Muon's of the matrices inside the blocks
    and Adam's of the rest (`muon`).

    Args:
      given: parts of the parameters that nothing moves, and that no state is kept for.
    """
    check_choice("optim.name", optim["name"], OPTIMIZERS)
    direction = optax.scale_by_adam(b1=optim["b1"], b2=optim["b2"], eps=1e-8)
    if optim["name"] == "muon":
        direction = optax.partition({"muon": scale_by_muon(), "adam": direction}, choose_directions)
    mask = functools.partial(jax.tree_util.tree_map_with_path, lambda path, _: decays(path))
    update = optax.chain(direction, optax.add_decayed_weights(optim["weight_decay"], mask=mask))
    if not given:  # the state then has the form that it always had
        return update

    def parts(params) -> dict[str, str]:
        return {name: "given" if name in given else "learned" for name in params}

    return optax.partition({"learned": update, "given": optax.set_to_zero()}, parts)


def choose_directions(params):
    """`muon` or `adam` for each parameter, boxed with its axis names or not."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if is_block_matrix(path) else "adam",
        params,
        is_leaf=lambda x: isinstance(x, AxisMetadata),
    )


def clip_factor(norm: jax.Array, clip_norm: float) -> jax.Array:
    """What gradients are multiplied by so that their norm is at most `clip_norm`; 0 never clips.

    With PyTorch's 1e-6 in the denominator, as the published models were trained.
    """
    if not clip_norm:
        return jnp.float32(1)
    return jnp.minimum(1, clip_norm / (norm + 1e-6))
