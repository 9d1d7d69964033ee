"""The masked autoencoder: encoder, decoder, and both together.

Letters: B clips, M tokens of the clip, L visible, Q predicted, P values of a token, D encoder
width, E decoder width, R registers. A token's *place* is its index on the full grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmrifm.model.blocks import Stack, dense, layer_norm
from fmrifm.model.masking import Mask
from fmrifm.model.options import ModelOptions
from fmrifm.model.positions import Positions, token_init


class Embeddings(NamedTuple):
    """The encoder's output after its final LayerNorm, float32."""

    cls_Bx1xD: jax.Array | None
    reg_BxRxD: jax.Array | None
    patch_BxLxD: jax.Array


class Encoder(nn.Module):
    """Embeds the tokens it is given and lets them attend to each other."""

    options: ModelOptions
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, tokens_BxLxP: jax.Array, place_BxL: jax.Array, valid_BxL: jax.Array
    ) -> Embeddings:
        """Encodes visible tokens.

        Args:
          tokens_BxLxP: normalised values, zero where there is no data.
          place_BxL: their places on the full grid, int.
          valid_BxL: bool; tokens without data are nobody's neighbour.
        """
        o, width = self.options, self.options.embed_dim
        x = dense(width, ("pixels", "embed"), self.dtype, "patch_embed")(tokens_BxLxP)
        x = x.astype(jnp.float32)
        x = x + Positions(o.pos_embed, o.slots, o.grid, width, name="pos_embed")(place_BxL)
        n_cls, n_reg = int(o.class_token), o.reg_tokens
        special = special_tokens(self, "cls_token", n_cls, width, o.no_embed_class, token_init)
        special += special_tokens(self, "reg_token", n_reg, width, o.no_embed_class, token_init)
        x, valid_BxS = prepend(special, x, valid_BxL)
        x = Stack(o.depth, o.num_heads, self.dtype, o.remat, name="blocks")(x, None, valid_BxS)
        x = layer_norm("norm")(x)
        return Embeddings(
            x[:, :n_cls] if n_cls else None,
            x[:, n_cls : n_cls + n_reg] if n_reg else None,
            x[:, n_cls + n_reg :],
        )


class Decoder(nn.Module):
    """Predicts the values of the queried tokens from the encoder's output."""

    options: ModelOptions
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        embeddings: Embeddings,
        visible_place_BxL: jax.Array,
        visible_valid_BxL: jax.Array,
        query_place_BxQ: jax.Array,
        query_valid_BxQ: jax.Array,
    ) -> jax.Array:
        """Returns (B, Q, target_dim) float32."""
        o, width = self.options, self.options.decoder_embed_dim
        positions = Positions(o.pos_embed, o.slots, o.grid, width, name="pos_embed")
        mask_token = self.param("mask_token", partitioned(token_init), (1, 1, width))
        x = mask_token + positions(query_place_BxQ)
        blocks = Stack(o.decoder_depth, o.decoder_num_heads, self.dtype, o.remat, name="blocks")
        if o.decoding == "attn":
            y = dense(width, ("embed", "embed_act"), self.dtype, "proj")(embeddings.patch_BxLxD)
            y = y.astype(jnp.float32)
            if not o.no_decode_pos:
                y = y + positions(visible_place_BxL)
            x = jnp.concatenate([y, x], axis=1)
            valid = jnp.concatenate([visible_valid_BxL, query_valid_BxQ], axis=1)
            special = special_tokens(
                self,
                "cls_token",
                int(o.class_token),
                width,
                o.no_embed_class,
                nn.initializers.zeros,
            )
            x, valid = prepend(special, x, valid)
            x = blocks(x, None, valid)[:, -query_place_BxQ.shape[1] :]
        elif o.decoding == "cross":
            x = blocks(x, embeddings.patch_BxLxD, visible_valid_BxL)
        else:
            registers = embeddings.reg_BxRxD
            x = blocks(x, registers, jnp.ones(registers.shape[:2], bool))
        x = layer_norm("norm")(x)
        head = dense(o.target_dim, ("embed", "pixels"), self.dtype, "head", o.head_init_scale)
        return head(x).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible tokens, decoder on the rest."""

    options: ModelOptions
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.encoder = Encoder(self.options, self.dtype)
        self.decoder = Decoder(self.options, self.dtype)

    def __call__(
        self,
        tokens_BxMxP: jax.Array,
        has_data_BxM: jax.Array,
        place_M: jax.Array,
        mask: Mask,
    ) -> tuple[jax.Array, Embeddings]:
        """Predicts the masked tokens from the visible ones.

        Args:
          tokens_BxMxP: float, all tokens of the clips, zero where there is no data.
          has_data_BxM: bool, tokens with a valid pixel.
          place_M: int32, place of each token on the full grid.
          mask: which of the M tokens are visible and which are predicted.

        Returns:
          preds (B, Q, target_dim) float32 and the encoder's embeddings of the visible tokens.
        """
        visible, queries = jax.tree.map(jnp.asarray, mask)
        place_M = jnp.asarray(place_M)
        tokens_BxLxP = jnp.take_along_axis(tokens_BxMxP, visible[:, :, None], axis=1)
        visible_valid_BxL = jnp.take_along_axis(has_data_BxM, visible, axis=1)
        embeddings = self.encoder(tokens_BxLxP, place_M[visible], visible_valid_BxL)
        preds_BxQxP = self.decoder(
            embeddings,
            place_M[visible],
            visible_valid_BxL,
            place_M[queries],
            jnp.take_along_axis(has_data_BxM, queries, axis=1),
        )
        return preds_BxQxP, embeddings

    def encode(
        self, tokens_BxMxP: jax.Array, has_data_BxM: jax.Array, place_M: jax.Array
    ) -> Embeddings:
        """Encodes every token of the clips, for probes."""
        place_BxM = jnp.broadcast_to(place_M, has_data_BxM.shape)
        return self.encoder(tokens_BxMxP, place_BxM, has_data_BxM)


def partitioned(init):
    """Axis names for a (1, tokens, width) parameter."""
    return nn.with_logical_partitioning(init, (None, None, "embed"))


def special_tokens(module, name: str, count: int, width: int, no_position: bool, init) -> list:
    """Learned tokens beside the patches, as a list of at most one (1, count, width) array."""
    if not count:
        return []
    token = module.param(name, partitioned(init), (1, count, width))
    if not no_position:
        token = token + module.param(f"{name}_pos", partitioned(token_init), (1, count, width))
    return [token]


def prepend(special: list, x_BxLxD: jax.Array, valid_BxL: jax.Array):
    """Puts (1, n, D) tokens, always valid, before those of every clip."""
    batch = x_BxLxD.shape[0]
    parts = [jnp.broadcast_to(s, (batch, *s.shape[1:])) for s in special]
    count = sum(part.shape[1] for part in parts)
    valid = jnp.concatenate([jnp.ones((batch, count), bool), valid_BxL], axis=1)
    return jnp.concatenate([*parts, x_BxLxD], axis=1), valid


def init_params(model: MaskedAutoencoder, key: jax.Array):
    """Fresh float32 parameters, boxed with their logical axis names (`nn.unbox` takes them off)."""
    one_token = jnp.zeros((1, 1), jnp.int32)
    tokens_BxMxP = jnp.zeros((1, 2, model.options.token_dim))
    has_data_BxM = jnp.ones((1, 2), bool)
    place_M = jnp.arange(2, dtype=jnp.int32)
    mask = Mask(one_token, one_token + 1)
    return model.init(key, tokens_BxMxP, has_data_BxM, place_M, mask)["params"]


def param_shapes(options: ModelOptions):
    """The parameter tree as shapes, without making any array."""
    model = MaskedAutoencoder(options)
    return nn.unbox(jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0)))
