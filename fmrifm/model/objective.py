"""Masked autoencoding of a batch: what training, evaluation, pictures and `forward` share.

Letters: B clips, M tokens of the geometry's patches, L visible, Q predicted, V values of a token,
W values predicted for it. A new objective replaces this class.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.spaces.geometry import Geometry
from fmrifm.model.blocks import drop_path
from fmrifm.model.mae import Embeddings, MaskedAutoencoder, Queries, Seen
from fmrifm.model.masking import Mask, draw_queries, draw_visible, marked
from fmrifm.model.network_maps import find_codes, maps_on, predict
from fmrifm.model.targets import (
    LossSums,
    Targets,
    loss_sums,
    near,
    normalize_targets,
    repeated,
    strided,
)


class Pixels(NamedTuple):
    """Clips as tokens, and what may be done with each of their values."""

    values_BxMxV: jax.Array  # float32, normalised
    valid_BxMxV: jax.Array  # bool: data
    shown_BxMxV: jax.Array  # bool: data that the encoder sees where its token is visible
    wanted_BxMxV: jax.Array  # bool: data that may be predicted


class Noise(NamedTuple):
    """Keys of what is random in training apart from the mask, one a clip."""

    input_B: jax.Array
    depth_B: jax.Array


class Outcome(NamedTuple):
    """What became of a batch."""

    sums: LossSums
    preds_BxQxW: jax.Array
    embeddings: Embeddings
    targets: Targets
    predicted_BxQxV: jax.Array  # bool: the pixels to predict in the predicted tokens, all frames


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """Masked autoencoding on one geometry.

    Attributes:
      model: the network.
      geometry: of the tokens, cut into the model's patches.
    """

    model: MaskedAutoencoder
    geometry: Geometry

    @property
    def places(self) -> np.ndarray:
        """(M,) int32: the place of each token on the full grid."""
        o = self.model.options
        offset = np.arange(o.slots, dtype=np.int32)[:, None] * o.grid_size
        return (offset + self.geometry.patch_index).reshape(-1)

    def draw(self, keys_B: jax.Array, pixels: Pixels) -> Mask:
        """A mask for each clip from its own key."""
        has_data_BxM = pixels.shown_BxMxV.any(-1)
        patches, o = self.geometry.patch_index, self.model.options
        visible_BxL = draw_visible(keys_B, has_data_BxM, patches, o)
        predictable_BxM = self.predictable(self.to_predict(pixels, visible_BxL))
        return Mask(visible_BxL, draw_queries(keys_B, visible_BxL, predictable_BxM, o))

    def predictable(self, wanted_BxMxV: jax.Array) -> jax.Array:
        """(B, M) bool: the tokens with a pixel to predict in the frames that are predicted."""
        return strided(wanted_BxMxV, self.model.options).any(-1)

    def to_predict(
        self, pixels: Pixels, visible_BxL: jax.Array, full_decoding: bool = False
    ) -> jax.Array:
        """(B, M, V) bool: wanted pixels, less those seen and, with `pred_edge_pad`, their edges."""
        if full_decoding:
            return pixels.wanted_BxMxV
        visible_BxM = marked(visible_BxL, pixels.valid_BxMxV.shape[1])
        seen_BxMxV = pixels.shown_BxMxV & visible_BxM[:, :, None]
        o = self.model.options
        return pixels.wanted_BxMxV & ~near(seen_BxMxV, o.pred_edge_pad, self.geometry, o)

    def see(
        self, params, pixels: Pixels, index_BxL: jax.Array, keys_B: jax.Array | None = None
    ) -> Seen:
        """The chosen tokens as the encoder takes them.

        Args:
          params: of the model, for its network maps.
          index_BxL: among the M tokens; an index of M or more gives an empty token.
          keys_B: where given, values are mixed with Gaussian noise by a share of the clip's own.
        """
        sigma = self.model.options.gauss_sigma
        values = _rows(pixels.values_BxMxV, index_BxL)
        shown = _rows(pixels.shown_BxMxV, index_BxL)
        if sigma and keys_B is not None:
            values = jax.vmap(_noised, (0, 0, None))(keys_B, values, sigma)
        place_M = jnp.asarray(self.places)
        place_BxL = place_M.at[index_BxL].get(mode="clip")
        observed_BxL = shown.sum(-1, dtype=jnp.int32)
        seen = Seen(jnp.where(shown, values, 0), place_BxL, observed_BxL)
        if not self.model.options.network_maps:
            return seen
        maps = maps_on(params["network_maps"], self.geometry)
        clips = pixels.values_BxMxV, pixels.shown_BxMxV, index_BxL  # the noise is the network's
        return seen._replace(codes_BxSxtxK=find_codes(maps, *clips, self.model.options))

    def __call__(
        self,
        params,
        pixels: Pixels,
        mask: Mask,
        counted_B: jax.Array | None = None,
        noise: Noise | None = None,
        full_decoding: bool = False,
    ) -> Outcome:
        """Predicts the queried tokens from the visible ones.

        Args:
          mask: see `draw`; an index of M or more stands for no token.
          counted_B: bool, clips that enter the sums; None for all.
          noise: in training.
          full_decoding: visible pixels are predicted too, as for denoising.
        """
        o, queries = self.model.options, mask.queries_BxQ
        seen = self.see(params, pixels, mask.visible_BxL, noise and noise.input_B)
        predicted, targets = self.wanted(params, pixels, mask, full_decoding)
        weight = strided(predicted, o)
        branches = None
        if noise is not None and o.drop_path_rate:
            branches = drop_path(noise.depth_B, o.depth, o.drop_path_rate)
        place_BxQ = jnp.asarray(self.places).at[queries].get(mode="clip")
        preds, embeddings = self.model.apply(
            {"params": params}, seen, Queries(place_BxQ, weight.any(-1)), branches
        )
        if o.network_maps:  # the network predicts what the linear model leaves
            maps = maps_on(params["network_maps"], self.geometry)
            preds = preds + _rows(predict(maps, seen.codes_BxSxtxK, o), queries)
        if counted_B is not None:
            weight = weight & counted_B[:, None, None]
        sums = loss_sums(preds, _rows(targets.normed_BxMxW, queries), weight)
        return Outcome(sums, preds, embeddings, targets, predicted)

    def wanted(
        self, params, pixels: Pixels, mask: Mask, full_decoding: bool = False
    ) -> tuple[jax.Array, Targets]:
        """(B, Q, V) bool, the pixels to predict in the queried tokens, and the targets of all."""
        o = self.model.options
        wanted = self.to_predict(pixels, mask.visible_BxL, full_decoding)
        targets = normalize_targets(
            strided(pixels.values_BxMxV, o),
            strided(pixels.valid_BxMxV, o),
            o,
            self.geometry,
            params.get("target_norm", {}).get("components"),
        )
        return _rows(wanted, mask.queries_BxQ), targets

    def score_values(
        self,
        values_BxMxW: jax.Array,
        mask: Mask,
        predicted_BxQxV: jax.Array,
        targets: Targets,
        counted_B: jax.Array,
    ) -> LossSums:
        """Loss sums of predicted values of the input; see `wanted`."""
        normed = (values_BxMxW - targets.offset_BxMxW) / targets.scale_BxMxW
        weight = strided(predicted_BxQxV, self.model.options) & counted_B[:, None, None]
        both = (_rows(x, mask.queries_BxQ) for x in (normed, targets.normed_BxMxW))
        return loss_sums(*both, weight)

    def restore(self, outcome: Outcome, mask: Mask) -> jax.Array:
        """(B, M, V): predictions as values of the input, of normalised zero where there is none."""
        batch, tokens = len(mask.queries_BxQ), len(self.places)
        rows, o = jnp.arange(batch)[:, None], self.model.options
        preds = jnp.zeros((batch, tokens, o.target_dim))
        preds = preds.at[rows, mask.queries_BxQ].set(outcome.preds_BxQxW, mode="drop")
        targets = outcome.targets
        return repeated(preds * targets.scale_BxMxW + targets.offset_BxMxW, o)


def _rows(x_BxMxV: jax.Array, index_BxK: jax.Array) -> jax.Array:
    """(B, K, V): the indexed tokens of each clip; zero or False for an index of M or more."""
    return jnp.take_along_axis(x_BxMxV, index_BxK[:, :, None], axis=1, mode="fill", fill_value=0)


def _noised(key: jax.Array, values_LxV: jax.Array, sigma: float) -> jax.Array:
    """(1 - t) x + t z with t from [0, sigma] and z from a standard normal."""
    share_key, noise_key = jax.random.split(key)
    share = jax.random.uniform(share_key, maxval=sigma)
    return (1 - share) * values_LxV + share * jax.random.normal(noise_key, values_LxV.shape)
