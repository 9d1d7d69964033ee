"""Low-rank adapters: W + alpha / r * A B in place of the encoder's Linear weights W.

Hu et al. 2021, arXiv 2106.09685. Pure functions on the parameter tree; what merges into the weights
runs at the model's own speed. One difference: the paper drops the inputs of A anew for every token,
which merged weights cannot; here `dropout` zeroes whole input features (rows of A), drawn once per
call and layer, the same for all tokens of the batch.

Letters: N layers of a stack (not there outside of one), I inputs and O outputs of a Linear layer,
R rank.
"""

import re

import jax
import jax.numpy as jnp
from flax import traverse_util

from data_tools.errors import InputError


def matching(pattern: str, paths: list[str], name: str) -> list[str]:
    """The paths in which a regular expression is found; `name` is the option that holds it."""
    try:
        found = [path for path in paths if re.search(pattern, path)]
    except re.error as error:
        raise InputError(
            f"{name}={pattern!r} is no regular expression ({error}): correct it."
        ) from error
    if not found:
        raise InputError(
            f"{name}={pattern!r} is found in no parameter: they have names such as "
            f"{', '.join(paths[:3])}."
        )
    return found


def init_adapters(key: jax.Array, params: dict, rank: int, pattern: str = "") -> dict:
    """Fresh adapters, which change nothing yet.

    Args:
      params: of a model; only its encoder gets adapters.
      pattern: regular expression on the paths of kernels, such as
        "encoder/blocks/layers/attn/q/kernel"; "" takes all.

    Returns:
      {path: {"A": (N, I, R), "B": (N, R, O)}} float32; A is Kaiming-uniform as the authors' code
      has it, from +-1 / sqrt(I), B is zero.
    """
    if rank < 1:
        raise InputError(f"rank={rank} makes no adapter: choose 1 or more.")
    flat = traverse_util.flatten_dict(params, sep="/")
    kernels = [p for p in flat if p.startswith("encoder/") and p.endswith("/kernel")]
    adapters = {}
    for i, path in enumerate(matching(pattern, kernels, "pattern")):
        *layers, inputs, outputs = flat[path].shape
        bound = inputs**-0.5
        a = jax.random.uniform(
            jax.random.fold_in(key, i), (*layers, inputs, rank), minval=-bound, maxval=bound
        )
        adapters[path] = {"A": a, "B": jnp.zeros((*layers, rank, outputs))}
    return adapters


def merge(
    params: dict, adapters: dict, alpha: float, key: jax.Array | None = None, dropout: float = 0.0
) -> dict:
    """The parameters with the adapters added in; those without adapters are passed on as they are.

    Args:
      key: for the dropout; None drops nothing, as in prediction.
      dropout: probability that an input feature is withheld from an adapter; the others are scaled
        by 1 / (1 - dropout).
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for i, (path, adapter) in enumerate(sorted(adapters.items())):
        a = adapter["A"]
        if key is not None and dropout:
            kept = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - dropout, (*a.shape[:-1], 1))
            a = a * kept / (1 - dropout)
        flat[path] = flat[path] + alpha / a.shape[-1] * (a @ adapter["B"])
    return traverse_util.unflatten_dict(flat, sep="/")
