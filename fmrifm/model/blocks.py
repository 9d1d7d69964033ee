"""Transformer blocks and the stack of them.

Letters: B clips, L tokens, S context tokens, D width, H heads, K width of a head. Parameters and
the residual stream are float32; matrix products run in the compute dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmrifm.model.attention import SAVED, attention

DENSE_INIT = nn.initializers.xavier_uniform()


class Compute(NamedTuple):
    """How a model is computed; it changes numbers by rounding only.

    Attributes:
      dtype: of matrix products.
      form: of attention, see there.
      unroll: a stack is written out block by block, so that XLA can count its operations.
    """

    dtype: jnp.dtype = jnp.float32
    form: str = "xla"
    unroll: bool = False


def dense(width: int, axes: tuple[str, str], dtype: jnp.dtype, name: str, scale: float = 1.0):
    """A Linear layer: Xavier uniform times `scale`, zero bias, logical axes (in, out)."""

    def init(key, shape, param_dtype=jnp.float32):
        return scale * DENSE_INIT(key, shape, param_dtype)

    return nn.Dense(
        width,
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(init, axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[1:]),
        name=name,
    )


def layer_norm(name: str):
    """LayerNorm in float32, eps 1e-6."""
    return nn.LayerNorm(
        epsilon=1e-6,
        dtype=jnp.float32,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("embed",)),
        name=name,
    )


class Attention(nn.Module):
    """Multi-head attention with separate q, k, v and an output projection; in the form of `how`."""

    heads: int
    how: Compute

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC, valid_BxS):
        width = x_BxLxD.shape[-1]

        def project(x, name):
            y = dense(width, ("embed", "heads"), self.how.dtype, name)(x)
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return nn.with_logical_constraint(y, ("batch", "tokens", "heads", None))

        y_BxLxHxK = attention(
            project(x_BxLxD, "q"),
            project(context_BxSxC, "k"),
            project(context_BxSxC, "v"),
            valid_BxS,
            self.how.form,
        )
        y_BxLxD = y_BxLxHxK.reshape(x_BxLxD.shape)
        return dense(width, ("heads", "embed"), self.how.dtype, "proj")(y_BxLxD)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; four times as wide inside."""

    how: Compute

    @nn.compact
    def __call__(self, x_BxLxD):
        width = x_BxLxD.shape[-1]
        h = dense(4 * width, ("embed", "mlp"), self.how.dtype, "fc1")(x_BxLxD)
        h = nn.gelu(h, approximate=False)
        h = nn.with_logical_constraint(h, ("batch", "tokens", "mlp"))
        return dense(width, ("mlp", "embed"), self.how.dtype, "fc2")(h)


class Block(nn.Module):
    """Pre-norm block: x + attn(LN(x)), then x + mlp(LN(x)).

    With a context, the tokens attend to it as it is; without, to themselves. `branches` scales
    what the two branches of each clip add (see `drop_path`); None leaves it.
    """

    heads: int
    how: Compute

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC, valid_BxS, branches_2xB):
        def add(x_BxLxD, y_BxLxD, branch):
            y_BxLxD = y_BxLxD.astype(jnp.float32)
            if branches_2xB is not None:
                y_BxLxD = y_BxLxD * branches_2xB[branch, :, None, None]
            return x_BxLxD + y_BxLxD

        y = layer_norm("norm1")(x_BxLxD)
        context = y if context_BxSxC is None else context_BxSxC
        y = Attention(self.heads, self.how, name="attn")(y, context, valid_BxS)
        x_BxLxD = add(x_BxLxD, y, 0)
        y = Mlp(self.how, name="mlp")(layer_norm("norm2")(x_BxLxD))
        x_BxLxD = add(x_BxLxD, y, 1)
        return nn.with_logical_constraint(x_BxLxD, ("batch", "tokens", "embed_act")), None


def drop_path(keys_B: jax.Array, depth: int, rate: float) -> jax.Array:
    """Stochastic depth: (depth, 2, B) float32 factors for the two branches of every block.

    A branch of block d is dropped (0) with a probability that grows linearly from 0 to `rate`, and
    scaled by 1 / (1 - probability) where it stays. Source: Huang et al. 2016, arXiv 1603.09382.
    """
    keep_D = 1 - jnp.linspace(0, rate, depth)
    noise_BxDx2 = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys_B)
    kept_BxDx2 = (noise_BxDx2 < keep_D[:, None]) / keep_D[:, None]
    return jnp.moveaxis(kept_BxDx2, 0, -1)


_save = jax.checkpoint_policies
REMAT_POLICIES = {
    "dots": _save.save_from_both_policies(
        _save.dots_with_no_batch_dims_saveable, _save.save_only_these_names(SAVED)
    ),
    "attention": _save.save_only_these_names(SAVED),
    "full": _save.nothing_saveable,
}


class Stack(nn.Module):
    """`depth` blocks as one scan: parameters carry a leading layer axis, one block compiles."""

    depth: int
    heads: int
    how: Compute
    remat: str

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC, valid_BxS, branches_Nx2xB=None):
        """Returns (B, L, D) float32; `valid_BxS` marks the keys that count.

        `branches` holds a row of factors for each of the N blocks.
        """
        if not self.depth:
            return x_BxLxD
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=self.depth,
            unroll=self.depth if self.how.unroll else 1,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        layers = scanned(self.heads, self.how, name="layers")
        return layers(x_BxLxD, context_BxSxC, valid_BxS, branches_Nx2xB)[0]
