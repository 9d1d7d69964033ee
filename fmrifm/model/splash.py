"""Attention by JAX's splash kernels for TPU, on sequences of any length and on any mesh.

Letters: B clips, L queries, S keys, H heads, K width of a head.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.sharding import PartitionSpec

_LANES = 128  # sequences come in multiples of a TPU's vector width
_LARGEST_BLOCK = 512  # scores of a block by a block lie in a chip's fast memory


def splash_attention(
    q_BxLxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    key_valid_BxS: jax.Array,
    name: str,
    interpret: bool = False,
) -> jax.Array:
    """As `attention`; each device computes the heads of the clips that it holds.

    Args:
      name: under which recomputation policies find the output and the normaliser of the softmax.
      interpret: run the kernels' Python on any platform, for tests.
    """
    q = _padded(q_BxLxHxK * q_BxLxHxK.shape[-1] ** -0.5)
    k, v = _padded(k_BxSxHxK), _padded(v_BxSxHxK)
    valid = jnp.pad(key_valid_BxS, [(0, 0), (0, k.shape[2] - key_valid_BxS.shape[1])])
    attend = functools.partial(_attend, name=name, interpret=interpret)
    if not jax.sharding.get_abstract_mesh().empty:  # kernels cannot be split by the compiler
        batch, heads = map(_dividing, nn.logical_to_mesh_axes(("batch", "heads")), q.shape)
        split = PartitionSpec(batch, heads, None, None)
        attend = jax.shard_map(
            attend,
            in_specs=(split, split, split, PartitionSpec(batch, None)),
            out_specs=PartitionSpec(batch, None, heads),
            check_vma=False,
        )
    out_BxLxD = attend(q, k, v, valid)[:, : q_BxLxHxK.shape[1]]
    return out_BxLxD.reshape(q_BxLxHxK.shape)


def _dividing(axes: str | tuple[str, ...] | None, size: int) -> str | tuple[str, ...] | None:
    """The mesh axes where they divide the size; None, for all of it everywhere, where not."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    shape = jax.sharding.get_abstract_mesh().shape
    return axes if size % math.prod(shape[name] for name in names) == 0 else None


def _attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS, name: str, interpret: bool) -> jax.Array:
    """(B, L, H K): attention of whole blocks on one device.

    What is kept for the backward pass is this output, heads side by side. The kernels' own form,
    which JAX's function would keep, has a head of K values in the last place, and a TPU fills that
    up to 128 values.
    """
    heads, length, width = q_BxHxLxK.shape[1:]
    sizes = length, k_BxHxSxK.shape[2]
    blocks = _block_sizes(*map(_block, sizes))
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask(sizes)] * heads),
        block_sizes=blocks,
        save_residuals=True,
        interpret=interpret,
    )

    def forward(kernel, q, k, v, valid):
        # Queries and valid keys are of segment 1, the others of none.
        ones_BxL = jnp.ones((len(q), length), jnp.int32)
        segments = kernels.SegmentIds(ones_BxL, valid.astype(jnp.int32))
        out_BxHxLxK, (normaliser_BxHxL,) = jax.vmap(kernel)(q, k, v, segments)
        out_BxLxD = jnp.swapaxes(out_BxHxLxK, 1, 2).reshape(-1, length, heads * width)
        kept = checkpoint_name((out_BxLxD, normaliser_BxHxL), name)
        return kept[0], (kernel, q, k, v, segments, *kept)

    def backward(kept, d_BxLxD):
        kernel, *inputs, out_BxLxD, normaliser_BxHxL = kept

        def split(x_BxLxD):
            return jnp.swapaxes(x_BxLxD.reshape(-1, length, heads, width), 1, 2)

        def one(q, k, v, segments, out, normaliser, d):
            infos = kernel.dq_mask_info, kernel.dkv_mask_info
            return kernels._splash_attention_bwd(
                False, kernel.kwargs["mask_value"], False, blocks, None,
                kernel.kwargs["mask_function"], None, interpret,
                (q, k, v, segments, None, out, normaliser, *infos), d,
            )[3:6]  # fmt: skip

        grads = jax.vmap(one)(*inputs, split(out_BxLxD), normaliser_BxHxL, split(d_BxLxD))
        return None, *grads, None

    attend = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
    attend.defvjp(forward, backward)
    return attend(kernel, q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS)


def padded_length(length: int) -> int:
    """The length of a sequence of whole blocks."""
    block = _block(length)
    return -(-length // block) * block


def _padded(x_BxLxHxK: jax.Array) -> jax.Array:
    """(B, H, L', K), L' whole blocks."""
    rest = padded_length(x_BxLxHxK.shape[1]) - x_BxLxHxK.shape[1]
    return jnp.pad(jnp.swapaxes(x_BxLxHxK, 1, 2), [(0, 0), (0, 0), (0, rest), (0, 0)])


def _block(length: int) -> int:
    """The block that a sequence is cut into: as many as needed, and no longer than needed."""
    count = -(-length // _LARGEST_BLOCK)
    return -(-length // (count * _LANES)) * _LANES


def _block_sizes(q: int, kv: int) -> kernels.BlockSizes:
    return kernels.BlockSizes(
        block_q=q, block_kv=kv, block_kv_compute=kv,
        block_q_dkv=q, block_kv_dkv=kv, block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=True,  # scores are made anew once, not once for q and once for k
    )  # fmt: skip
