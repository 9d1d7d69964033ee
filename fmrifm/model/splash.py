"""Attention by JAX's splash kernels for TPU, on sequences of any length and on any mesh.

Letters: B clips, L queries, S keys, H heads, K width of a head.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
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

    def local(q, k, v, valid):
        sizes = q.shape[2], k.shape[2]
        kernel = kernels.make_splash_mha_single_device(
            masks.MultiHeadMask([masks.FullMask(sizes)] * q.shape[1]),
            block_sizes=_block_sizes(*map(_block, sizes)),
            residual_checkpoint_name=name,
            interpret=interpret,
        )
        # Queries and valid keys are of segment 1, the others of none.
        segments = kernels.SegmentIds(jnp.ones(q.shape[::2], jnp.int32), valid.astype(jnp.int32))
        return jax.vmap(kernel)(q, k, v, segments)

    if not jax.sharding.get_abstract_mesh().empty:  # kernels cannot be split by the compiler
        heads = nn.logical_to_mesh_axes(("batch", "heads", None, None))
        rows = PartitionSpec(heads[0], None)
        local = jax.shard_map(
            local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False
        )
    out = local(q, k, v, valid)[:, :, : q_BxLxHxK.shape[1]]
    return jnp.swapaxes(out, 1, 2)


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
