"""Muon: momentum whose matrices are made orthogonal, for the kernels inside the blocks.

Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon. Embeddings, the prediction head and
all that is no matrix stay with Adam, as advised there. Letters: N layers, I inputs, O outputs.
"""

import math

import jax
import jax.numpy as jnp
import optax

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
