"""Floating-point operations of a clip, and what the chips could do: for model FLOP utilisation."""

import jax

from fmrifm.model.options import ModelOptions

# Dense bfloat16 peak of one jax device in FLOP/s, by the start of `device_kind`.
# Sources: Google Cloud TPU system architecture pages; NVIDIA data sheets (without sparsity).
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def clip_flops(options: ModelOptions, patches: int) -> float:
    """Forward and backward operations of one clip, two for a multiply-add.

    Matrix products only. A block of width D over L tokens (S of them as context) costs
    2 L D (12 D) for its products and 4 L S D for attention; the backward pass costs twice the
    forward pass; recomputation is not counted.

    Args:
      patches: cortical patches of the geometry.
    """
    o = options
    tokens = patches * o.slots
    visible = min(o.visible_count, patches) * o.slots if o.masking == "tube" else o.visible_count
    queries = min(tokens - visible, o.query_limit)
    seen = visible + int(o.class_token) + o.reg_tokens
    total = 2 * visible * o.token_dim * o.embed_dim
    total += o.depth * _block(seen, seen, o.embed_dim, o.embed_dim)
    width = o.decoder_embed_dim
    if o.decoding == "attn":
        length = visible + queries + int(o.class_token)
        total += 2 * visible * o.embed_dim * width
        total += o.decoder_depth * _block(length, length, width, width)
    else:
        context = visible if o.decoding == "cross" else o.reg_tokens
        total += o.decoder_depth * _block(queries, context, width, o.embed_dim)
    total += 2 * queries * width * o.target_dim
    return 3.0 * total


def _block(queries: int, context: int, width: int, context_width: int) -> int:
    projections = 2 * queries * 2 * width**2 + 2 * context * 2 * width * context_width
    return projections + 4 * queries * context * width + 2 * queries * 8 * width**2


def peak_flops() -> float | None:
    """What all devices of the run could do in a second, None where a chip is not in the table."""
    kind = jax.devices()[0].device_kind
    peak = next((peak for name, peak in PEAKS.items() if kind.startswith(name)), None)
    return peak and peak * jax.device_count()
