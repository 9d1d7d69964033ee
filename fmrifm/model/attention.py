"""Scaled dot-product attention: one function that every layer calls, in several forms.

All forms compute the same; they differ in memory and in where they run. `xla` is the readable one,
and keeps the scores of all queries and keys; the others never hold them. Letters: B clips, L
queries, S keys, H heads, K width of a head.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from data_tools.errors import InputError

SAVED = "attention"  # Recomputation policies find under this name what is to be kept.
_BLOCK = 256  # queries whose scores `blocked` holds at once
_SMALL = 2**15  # scores of a head: `heads` loses more by its loop than it saves below
_LANES = 128  # sequences come in multiples of a TPU's vector width
_LARGEST_BLOCK = 512  # scores of a block by a block lie in a chip's fast memory


def attention(
    q_BxLxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    key_valid_BxS: jax.Array,
    form: str = "xla",
) -> jax.Array:
    """softmax(q k' / sqrt(K)) v over the valid keys, the softmax in float32.

    Args:
      key_valid_BxS: bool; keys that are not valid count as absent. A clip without any is finite.
      form: of FORMS: `xla` on all platforms; `heads` on all, head by head, for CPUs; `blocked` on
        all, a few queries at a time; `splash` on TPU, Pallas kernels of JAX; `cudnn` on NVIDIA,
        16-bit only.

    Returns:
      (B, L, H, K) in the dtype of v.
    """
    return FORMS[form](q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS)


def choose_form(form: str, platform: str) -> str:
    """The form that `auto` stands for on a platform (cpu, gpu, tpu), or the one that is named.

    Raises:
      InputError: there is no such form, or not on that platform.
    """
    if form == "auto":
        return {"tpu": "splash", "cpu": "heads"}.get(platform, "xla")
    if form not in FORMS:
        raise InputError(f"attention={form!r} is unknown: choose auto, {', '.join(FORMS)}.")
    home = {"splash": "tpu", "cudnn": "gpu"}.get(form, platform)
    if home != platform:
        raise InputError(f"attention={form} runs on {home} only: choose another, such as auto.")
    return form


def _xla(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    scale = q_BxLxHxK.shape[-1] ** -0.5
    scores_BxHxLxS = jnp.einsum(
        "blhk,bshk->bhls", q_BxLxHxK * scale, k_BxSxHxK, preferred_element_type=jnp.float32
    )
    # A finite floor, so that a clip without any valid key stays finite too.
    floor = jnp.finfo(jnp.float32).min
    scores_BxHxLxS = jnp.where(key_valid_BxS[:, None, None, :], scores_BxHxLxS, floor)
    weights_BxHxLxS = jax.nn.softmax(scores_BxHxLxS, axis=-1).astype(v_BxSxHxK.dtype)
    return checkpoint_name(jnp.einsum("bhls,bshk->blhk", weights_BxHxLxS, v_BxSxHxK), SAVED)


def _blocked(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    batch, length, *rest = q_BxLxHxK.shape
    count = -(-length // _BLOCK)
    padded = jnp.pad(q_BxLxHxK, [(0, 0), (0, count * _BLOCK - length), (0, 0), (0, 0)])
    blocks = jnp.moveaxis(padded.reshape(batch, count, _BLOCK, *rest), 1, 0)

    @jax.checkpoint  # else the backward pass would keep the scores of all blocks
    def block(q_BxlxHxK):
        return _xla(q_BxlxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS)

    out = jnp.moveaxis(jax.lax.map(block, blocks), 0, 1).reshape(batch, -1, *rest)[:, :length]
    return checkpoint_name(out, SAVED)


def _heads(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS):
    if q_BxLxHxK.shape[1] * k_BxSxHxK.shape[1] < _SMALL:
        return _xla(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS)
    q = jnp.swapaxes(q_BxLxHxK * q_BxLxHxK.shape[-1] ** -0.5, 1, 2)
    k, v = jnp.swapaxes(k_BxSxHxK, 1, 2), jnp.swapaxes(v_BxSxHxK, 1, 2)
    out_BxLxD = _on_each_device(_attend_by_head, q, k, v, key_valid_BxS)
    return out_BxLxD.reshape(q_BxLxHxK.shape)


def _attend_by_head(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS) -> jax.Array:
    """(B, L, H K): attention on one device, whose matrices fit a processor's cache.

    The backward pass computes the scores again: reading them from memory takes longer.
    """
    batch, heads, length, width = q_BxHxLxK.shape

    def scores(q_LxK, k_SxK, valid_S):
        s_LxS = jnp.matmul(q_LxK, k_SxK.T, preferred_element_type=jnp.float32)
        return jnp.where(valid_S, s_LxS, jnp.finfo(jnp.float32).min)

    def one(inputs):
        q, k, v, valid = inputs
        s_LxS = scores(q, k, valid)
        top_Lx1 = s_LxS.max(-1, keepdims=True)
        p_LxS = jnp.exp(s_LxS - top_Lx1)
        total_Lx1 = p_LxS.sum(-1, keepdims=True)
        out_LxK = jnp.matmul(p_LxS.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out_LxK / total_Lx1).astype(v.dtype), top_Lx1 + jnp.log(total_Lx1)

    def one_back(inputs):
        q, k, v, valid, out, normaliser_Lx1, d = inputs
        p_LxS = jnp.exp(scores(q, k, valid) - normaliser_Lx1)
        delta_Lx1 = (d * out).sum(-1, keepdims=True, dtype=jnp.float32)
        dp_LxS = jnp.matmul(d, v.T, preferred_element_type=jnp.float32) - delta_Lx1
        ds_LxS = jnp.where(valid, p_LxS * dp_LxS, 0).astype(q.dtype)
        return ds_LxS @ k, ds_LxS.T @ q, p_LxS.astype(d.dtype).T @ d

    def flat(x):
        return x.reshape(batch * heads, *x.shape[2:])

    def split(x_BxLxD):
        return flat(jnp.swapaxes(x_BxLxD.reshape(batch, length, heads, width), 1, 2))

    def forward(q, k, v, valid):
        kept = *map(flat, (q, k, v)), jnp.repeat(valid, heads, axis=0)
        out, normaliser = jax.lax.map(one, kept)
        out_BxLxD = jnp.swapaxes(out.reshape(q.shape), 1, 2).reshape(batch, length, -1)
        saved = checkpoint_name((out_BxLxD, normaliser), SAVED)
        return saved[0], (*kept, *saved)

    def backward(kept, d_BxLxD):
        *inputs, out_BxLxD, normaliser = kept
        grads = jax.lax.map(one_back, (*inputs, split(out_BxLxD), normaliser, split(d_BxLxD)))
        shapes = (x.shape for x in (q_BxHxLxK, k_BxHxSxK, v_BxHxSxK))
        return *(g.reshape(shape) for g, shape in zip(grads, shapes, strict=True)), None

    attend = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
    attend.defvjp(forward, backward)
    return attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS)


def _cudnn(q_BxLxHxK, k_BxSxHxK, v_BxSxHxK, key_valid_BxS, implementation: str = "cudnn"):
    # cuDNN takes lengths of sequences without holding a mask of queries by keys; the order of keys
    # is of no matter, so the valid ones go first.
    order_BxS = jnp.argsort(~key_valid_BxS, axis=1, stable=True)[:, :, None, None]
    k_BxSxHxK, v_BxSxHxK = (
        jnp.take_along_axis(x, order_BxS, axis=1) for x in (k_BxSxHxK, v_BxSxHxK)
    )
    count_B = jnp.maximum(key_valid_BxS.sum(1, dtype=jnp.int32), 1)
    out = jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxSxHxK, v_BxSxHxK,
        query_seq_lengths=jnp.full_like(count_B, q_BxLxHxK.shape[1]),
        key_value_seq_lengths=count_B, implementation=implementation,
    )  # fmt: skip
    return checkpoint_name(out, SAVED)


def splash_attention(
    q_BxLxHxK: jax.Array,
    k_BxSxHxK: jax.Array,
    v_BxSxHxK: jax.Array,
    key_valid_BxS: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """As `attention`; each device computes the heads of the clips that it holds.

    Args:
      interpret: run the kernels' Python on any platform, for tests.
    """
    q = _padded(q_BxLxHxK * q_BxLxHxK.shape[-1] ** -0.5)
    k, v = _padded(k_BxSxHxK), _padded(v_BxSxHxK)
    valid = jnp.pad(key_valid_BxS, [(0, 0), (0, k.shape[2] - key_valid_BxS.shape[1])])
    attend = functools.partial(_attend, interpret=interpret)
    out_BxLxD = _on_each_device(attend, q, k, v, valid)[:, : q_BxLxHxK.shape[1]]
    return out_BxLxD.reshape(q_BxLxHxK.shape)


def _on_each_device(attend: Callable, q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS) -> jax.Array:
    """(B, L, H K): each device computes the clips and heads that it holds.

    The compiler cannot split kernels, nor a loop over heads.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        batch, heads = map(dividing, nn.logical_to_mesh_axes(("batch", "heads")), q_BxHxLxK.shape)
        split = PartitionSpec(batch, heads, None, None)
        attend = jax.shard_map(
            attend,
            in_specs=(split, split, split, PartitionSpec(batch, None)),
            out_specs=PartitionSpec(batch, None, heads),
            check_vma=False,
        )
    return attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS)


def dividing(axes: str | tuple[str, ...] | None, size: int) -> str | tuple[str, ...] | None:
    """The mesh axes where they divide the size; None, for all of it everywhere, where not."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    shape = jax.sharding.get_abstract_mesh().shape
    return axes if size % math.prod(shape[name] for name in names) == 0 else None


def _attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, valid_BxS, interpret: bool) -> jax.Array:
    """(B, L, H K): attention of whole blocks on one device.

    The backward pass keeps this output, heads side by side. The kernels' own form, which JAX's
    function would keep, has a head of K values in the last place, and a TPU pads that to 128.
    """
    # Imported here, as only TPUs need them and every other start would wait for them.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length, width = q_BxHxLxK.shape[1:]
    sizes = length, k_BxHxSxK.shape[2]
    q_block, kv_block = map(_block, sizes)
    blocks = kernels.BlockSizes(
        block_q=q_block, block_kv=kv_block, block_kv_compute=kv_block,
        block_q_dkv=q_block, block_kv_dkv=kv_block, block_kv_dkv_compute=kv_block,
        use_fused_bwd_kernel=True,  # recomputes scores once, not once for q and once for k
    )  # fmt: skip
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
        kept = checkpoint_name((out_BxLxD, normaliser_BxHxL), SAVED)
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


def _padded(x_BxLxHxK: jax.Array) -> jax.Array:
    """(B, H, L', K), L' whole blocks."""
    rest = padded_length(x_BxLxHxK.shape[1]) - x_BxLxHxK.shape[1]
    return jnp.pad(jnp.swapaxes(x_BxLxHxK, 1, 2), [(0, 0), (0, 0), (0, rest), (0, 0)])


def padded_length(length: int) -> int:
    """The length of a sequence of whole blocks."""
    block = _block(length)
    return -(-length // block) * block


def _block(length: int) -> int:
    """The block that a sequence is cut into: as many as needed, and no longer than needed."""
    count = -(-length // _LARGEST_BLOCK)
    return -(-length // (count * _LANES)) * _LANES


FORMS: dict[str, Callable[..., jax.Array]] = {
    "xla": _xla,
    "heads": _heads,
    "blocked": _blocked,
    "splash": splash_attention,
    "cudnn": _cudnn,
}
