"""Transformer blocks and the stack of them.

Letters: B clips, L tokens, S context tokens, D width, H heads, K width of a head. Parameters and
the residual stream are float32; matrix products run in the compute dtype.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmrifm.model.attention import attention

DENSE_INIT = nn.initializers.xavier_uniform()


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
    """Multi-head attention with separate q, k, v and an output projection."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC, valid_BxS):
        width = x_BxLxD.shape[-1]

        def project(x, name):
            y = dense(width, ("embed", "heads"), self.dtype, name)(x)
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return nn.with_logical_constraint(y, ("batch", "tokens", "heads", None))

        y_BxLxHxK = attention(
            project(x_BxLxD, "q"),
            project(context_BxSxC, "k"),
            project(context_BxSxC, "v"),
            valid_BxS,
        )
        y_BxLxD = y_BxLxHxK.reshape(x_BxLxD.shape)
        return dense(width, ("heads", "embed"), self.dtype, "proj")(y_BxLxD)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; four times as wide inside."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxLxD):
        width = x_BxLxD.shape[-1]
        h = dense(4 * width, ("embed", "mlp"), self.dtype, "fc1")(x_BxLxD)
        h = nn.gelu(h, approximate=False)
        h = nn.with_logical_constraint(h, ("batch", "tokens", "mlp"))
        return dense(width, ("mlp", "embed"), self.dtype, "fc2")(h)


class Block(nn.Module):
    """Pre-norm block: x + attn(LN(x)), then x + mlp(LN(x)).

    With a context, the tokens attend to it as it is; without, to themselves.
    """

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC, valid_BxS):
        y = layer_norm("norm1")(x_BxLxD)
        context = y if context_BxSxC is None else context_BxSxC
        y = Attention(self.heads, self.dtype, name="attn")(y, context, valid_BxS)
        x_BxLxD = x_BxLxD + y.astype(jnp.float32)
        y = Mlp(self.dtype, name="mlp")(layer_norm("norm2")(x_BxLxD))
        x_BxLxD = x_BxLxD + y.astype(jnp.float32)
        return nn.with_logical_constraint(x_BxLxD, ("batch", "tokens", "embed_act")), None


REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nn.Module):
    """`depth` blocks as one scan: parameters carry a leading layer axis, one block compiles."""

    depth: int
    heads: int
    dtype: jnp.dtype
    remat: str

    @nn.compact
    def __call__(self, x_BxLxD, context_BxSxC=None, valid_BxS=None):
        """Returns (B, L, D) float32; `valid_BxS` marks the keys that count."""
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        layers = functools.partial(scanned, self.heads, self.dtype, name="layers")
        return layers()(x_BxLxD, context_BxSxC, valid_BxS)[0]
