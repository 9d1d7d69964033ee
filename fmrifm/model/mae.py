"""The masked autoencoder: encoder, decoder, and both together.

Letters: B clips, L visible tokens, Q predicted, P values of a token, D encoder width, E decoder
width, R registers; codes are of S time slots, t frames and K network maps. A token's *place* is its
index on the full grid.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmrifm.model.blocks import Compute, Stack, dense, layer_norm
from fmrifm.model.network_maps import empty_maps
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import Positions, partitioned, token_init


class Seen(NamedTuple):
    """Tokens that go into the encoder."""

    tokens_BxLxP: jax.Array  # float, zero where nothing is observed
    place_BxL: jax.Array  # int32, places on the full grid
    observed_BxL: jax.Array  # int32, values that are data; a token with none is nobody's neighbour
    codes_BxSxtxK: jax.Array | None = None  # of all frames on the network maps, if any


class Queries(NamedTuple):
    """Tokens that come out of the decoder."""

    place_BxQ: jax.Array  # int32, places on the full grid
    valid_BxQ: jax.Array  # bool, whether there is anything to predict


class Embeddings(NamedTuple):
    """The encoder's output after its final LayerNorm, float32."""

    cls_Bx1xD: jax.Array | None
    reg_BxRxD: jax.Array | None
    patch_BxLxD: jax.Array


class Encoder(nn.Module):
    """Embeds the tokens it is given and lets them attend to each other."""

    options: ModelOptions
    how: Compute

    @nn.compact
    def __call__(self, seen: Seen, branches_Nx2xB: jax.Array | None = None) -> Embeddings:
        """Encodes tokens; `branches` (see `drop_path`) only in training."""
        o, width = self.options, self.options.embed_dim
        tokens_BxLxP = seen.tokens_BxLxP
        if o.mask_drop_scale:  # as dropout does: what is missing makes the rest count more
            scale_BxL = o.token_dim / jnp.maximum(seen.observed_BxL, 1)
            tokens_BxLxP = tokens_BxLxP * scale_BxL[:, :, None]
        x = dense(width, ("pixels", "embed"), self.how.dtype, "patch_embed")(tokens_BxLxP)
        x = x.astype(jnp.float32) + Positions(o, width, name="pos_embed")(seen.place_BxL)
        n_cls, n_reg = int(o.class_token), o.reg_tokens
        special = special_tokens(self, "cls_token", n_cls, width, o.no_embed_class, token_init)
        if o.network_maps:
            codes_Bx1xC = seen.codes_BxSxtxK.reshape(len(seen.place_BxL), 1, -1)
            clip = dense(width, ("pixels", "embed"), self.how.dtype, "codes_embed")(codes_Bx1xC)
            special = [special[0] + clip.astype(jnp.float32)]
        special += special_tokens(self, "reg_token", n_reg, width, o.no_embed_class, token_init)
        x, valid_BxS = prepend(special, x, seen.observed_BxL > 0)
        blocks = Stack(o.depth, o.num_heads, self.how, o.remat, name="blocks")
        x = layer_norm("norm")(blocks(x, None, valid_BxS, branches_Nx2xB))
        return Embeddings(
            x[:, :n_cls] if n_cls else None,
            x[:, n_cls : n_cls + n_reg] if n_reg else None,
            x[:, n_cls + n_reg :],
        )


class Decoder(nn.Module):
    """Predicts the values of the queried tokens from the encoder's output."""

    options: ModelOptions
    how: Compute

    @nn.compact
    def __call__(self, embeddings: Embeddings, seen: Seen, queries: Queries) -> jax.Array:
        """Returns (B, Q, target_dim) float32."""
        o, width = self.options, self.options.decoder_embed_dim
        positions = Positions(o, width, name="pos_embed")
        mask_token = self.param("mask_token", partitioned(token_init), (1, 1, width))
        x = mask_token + positions(queries.place_BxQ)
        blocks = Stack(o.decoder_depth, o.decoder_num_heads, self.how, o.remat, name="blocks")
        seen_valid_BxL = seen.observed_BxL > 0
        if o.decoding == "attn":
            y = dense(width, ("embed", "embed_act"), self.how.dtype, "proj")(embeddings.patch_BxLxD)
            y = y.astype(jnp.float32)
            if not o.no_decode_pos:
                y = y + positions(seen.place_BxL)
            x = jnp.concatenate([y, x], axis=1)
            valid = jnp.concatenate([seen_valid_BxL, queries.valid_BxQ], axis=1)
            n_cls, zeros = int(o.class_token), nn.initializers.zeros
            special = special_tokens(self, "cls_token", n_cls, width, o.no_embed_class, zeros)
            x, valid = prepend(special, x, valid)
            x = blocks(x, None, valid)[:, x.shape[1] - queries.place_BxQ.shape[1] :]
        elif o.decoding == "cross":
            x = blocks(x, embeddings.patch_BxLxD, seen_valid_BxL)
        else:
            registers = embeddings.reg_BxRxD
            x = blocks(x, registers, jnp.ones(registers.shape[:2], bool))
        x = layer_norm("norm")(x)
        head = dense(o.target_dim, ("embed", "pixels"), self.how.dtype, "head", o.head_init_scale)
        return head(x).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible tokens, decoder on the rest; an encoder alone with decoding `none`.

    Attributes:
      options: what fixes its function.
      how: it is computed.
    """

    options: ModelOptions
    how: Compute = Compute()

    def setup(self):
        self.encoder = Encoder(self.options, self.how)
        if self.options.decoding != "none":
            self.decoder = Decoder(self.options, self.how)

    def __call__(
        self, seen: Seen, queries: Queries, branches_Nx2xB: jax.Array | None = None
    ) -> tuple[jax.Array, Embeddings]:
        """Returns predictions (B, Q, target_dim) float32 and embeddings of what was seen."""
        embeddings = self.encoder(seen, branches_Nx2xB)
        return self.decoder(embeddings, seen, queries), embeddings

    def encode(self, seen: Seen) -> Embeddings:
        """The encoder alone, for probes."""
        return self.encoder(seen)


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
    """Fresh float32 parameters, boxed with their logical axis names (`nn.unbox` takes them off).

    The components of `target_norm='pca'` and the network maps are zeros: they are given, not
    learned.
    """
    o, one = model.options, jnp.zeros((1, 1), jnp.int32)
    codes = jnp.zeros((1, o.slots, o.t_patch, o.network_maps)) if o.network_maps else None
    seen = Seen(jnp.zeros((1, 1, o.token_dim)), one, one + 1, codes)
    if o.decoding == "none":
        params = model.init(key, seen, method="encode")["params"]
    else:
        params = model.init(key, seen, Queries(one, one > 0))["params"]
    if o.network_maps:
        params["network_maps"] = empty_maps(o)
    if o.target_norm == "pca" and o.decoding != "none":
        params["target_norm"] = {"components": jnp.zeros((o.pca_norm_nc, *o.frame_shape))}
    return params


def param_shapes(options: ModelOptions):
    """The parameter tree as shapes, without making any array."""
    return nn.unbox(boxed_shapes(options))


def boxed_shapes(options: ModelOptions):
    """The same, boxed with logical axis names."""
    leaves, structure = _boxed_shapes(options)
    return jax.tree.unflatten(structure, leaves)  # the caller may change its own tree


@functools.lru_cache(maxsize=64)
def _boxed_shapes(options: ModelOptions) -> tuple[list, jax.tree_util.PyTreeDef]:
    """Leaves and structure, cached: tracing a model takes a second, and many callers ask for it."""
    init = functools.partial(init_params, MaskedAutoencoder(options))
    return jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))
