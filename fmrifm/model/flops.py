"""Floating-point operations of a clip, by a formula: matrix products only, two for a multiply-add.

A product of (m, k) and (k, n) costs 2 m k n, and twice that again in the backward pass. For a block
of width D over L tokens that makes 24 L D^2 + 4 L^2 D forwards, the latter for attention.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from fmrifm.model.attention import padded_length
from fmrifm.model.options import ModelOptions

# What the backward pass computes again of each block, for `remat`. The last product of a block is
# never needed again; `dots` keeps products of tokens and weights, not those of scores.
_RECOMPUTED = {
    "none": (),
    "dots": (),
    "attention": ("context", "projections", "proj", "fc1"),
    "full": ("context", "projections", "proj", "fc1", "scores", "values"),
}


@dataclasses.dataclass(frozen=True)
class Product:
    """So many products of an (m, k) and a (k, n) matrix in the forward pass of a clip.

    Attributes:
      part: of the model: a name of _RECOMPUTED, or another.
      in_block: whether it belongs to a block, which may be computed again.
    """

    part: str
    m: int
    k: int
    n: int
    count: int = 1
    in_block: bool = True

    @property
    def flops(self) -> int:
        return 2 * self.count * self.m * self.k * self.n

    def padded(self, unit: int, form: str) -> int:
        """What a matrix unit of `unit` x `unit` spends on it; `splash` pads sequences to blocks."""
        m, k, n = self.m, self.k, self.n
        if form == "splash" and self.part in ("scores", "values"):
            m = padded_length(m)
            k, n = (k, padded_length(n)) if self.part == "scores" else (padded_length(k), n)
        k, n = (math.ceil(x / unit) * unit for x in (k, n))
        return 2 * self.count * m * k * n


class ClipFlops(NamedTuple):
    """Operations of a training step on one clip."""

    total: float  # forward and backward, nothing twice; utilisation is counted by it
    attention: float  # the part of it that grows with the square of the tokens
    off_cortex: float  # cost of tokens for patches without cortex, if there were any
    recompute: float  # done again in the backward pass, to save memory; not in the total
    with_padding: float  # all of it, with products padded to a matrix unit


def count_flops(
    options: ModelOptions, patches: int, form: str = "xla", matrix_unit: int = 1
) -> ClipFlops:
    """Operations of a clip.

    Args:
      patches: cortical patches of the geometry.
      form: of attention; all but `xla` make the scores anew in the backward pass.
      matrix_unit: side of the chip's, 1 for no padding.
    """
    products = list(_products(options, patches))
    again = [p for p in products if p.in_block and p.part in _RECOMPUTED[options.remat]]
    # Scores that nobody kept are made anew from q and k.
    if form != "xla" or options.remat in ("dots", "attention"):
        again += [p for p in products if p.part == "scores"]
    total = 3 * sum(p.flops for p in products)
    whole = 3 * sum(p.flops for p in _products(options, math.prod(options.grid)))
    return ClipFlops(
        total=float(total),
        attention=3.0 * sum(p.flops for p in products if p.part in ("scores", "values")),
        off_cortex=float(whole - total),
        recompute=float(sum(p.flops for p in again)),
        with_padding=float(
            3 * sum(p.padded(matrix_unit, form) for p in products)
            + sum(p.padded(matrix_unit, form) for p in again)
        ),
    )


def clip_tokens(options: ModelOptions, patches: int) -> tuple[int, int]:
    """Tokens of a clip that go through the encoder and through the decoder."""
    o, (visible, queries) = options, _counts(options, patches)
    seen = visible + int(o.class_token) + o.reg_tokens
    return seen, queries + (visible + int(o.class_token) if o.decoding == "attn" else 0)


def _counts(o: ModelOptions, patches: int) -> tuple[int, int]:
    """Visible and predicted tokens."""
    visible = min(o.visible_count, patches) * o.slots if o.masking == "tube" else o.visible_count
    return visible, min(patches * o.slots - visible, o.query_limit)


def _products(o: ModelOptions, patches: int) -> Iterator[Product]:
    visible, queries = _counts(o, patches)
    seen, decoded = clip_tokens(o, patches)
    width = o.decoder_embed_dim
    yield Product("embed", visible, o.token_dim, o.embed_dim, in_block=False)
    if o.network_maps:  # solving for the codes is not counted: it is no product of a layer
        codes = o.frames * o.network_maps
        yield Product("codes embed", 1, codes, o.embed_dim, in_block=False)
    yield from _blocks(seen, seen, o.embed_dim, o.embed_dim, o.num_heads, o.depth)
    if o.decoding == "attn":
        yield Product("decoder embed", visible, o.embed_dim, width, in_block=False)
        context, context_width = decoded, width
    else:
        context, context_width = visible if o.decoding == "cross" else o.reg_tokens, o.embed_dim
    heads = o.decoder_num_heads
    yield from _blocks(decoded, context, width, context_width, heads, o.decoder_depth)
    yield Product("head", queries, width, o.target_dim, in_block=False)


def _blocks(length, context, width, context_width, heads, depth) -> Iterator[Product]:
    head = width // heads
    yield Product("projections", length, width, width, depth)
    yield Product("context", context, context_width, width, 2 * depth)
    yield Product("scores", length, head, context, heads * depth)
    yield Product("values", length, context, head, heads * depth)
    yield Product("proj", length, width, width, depth)
    yield Product("fc1", length, width, 4 * width, depth)
    yield Product("fc2", length, 4 * width, width, depth)
