"""A loaded model as a Python object: images in, loss, predictions and embeddings out.

Token ids count the full grid, slot by slot. Which tokens are seen and predicted is decided here,
on the host, from masks and ids; the rest is one compiled function of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import Embeddings, MaskedAutoencoder
from fmrifm.model.masking import Mask, clip_keys, draw_queries, marked
from fmrifm.model.objective import Noise, Objective, Pixels
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import patchify, unpatchify


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainedModel(ModelFiles):
    """What `fmrifm.from_pretrained` returns: a model directory with `forward` and `encode`.

    Both are differentiable in the images and, through `dataclasses.replace(model, params=...)`, in
    the parameters. They compute in float32.
    """

    @property
    def config(self) -> FrozenConfigDict:
        """All options of the model, as an attribute or an item each."""
        return FrozenConfigDict(dataclasses.asdict(self.options))

    def forward(
        self,
        images_BxCxTxHxW: jax.Array,
        image_mask=None,
        visible_mask=None,
        visible_ids_BxL=None,
        pred_mask=None,
        pred_ids_BxQ=None,
        key: jax.Array | None = None,
        train: bool = False,
        full_decoding: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Masks, predicts and scores clips, or 2-D images (B, C, H, W).

        Args:
          images_BxCxTxHxW: float, normalised as the model's `preprocessing` says.
          image_mask: 1 where there are data; broadcast to the images. None: the geometry's mask.
          visible_mask: 1 where the encoder may look: each token with such a pixel is visible.
            None: visible tokens are drawn, as in training.
          visible_ids_BxL: the visible tokens, instead of drawing them or finding them in the mask.
          pred_mask: 1 where pixels may be predicted.
          pred_ids_BxQ: the tokens to predict; None: the masked ones with a pixel to predict, or
            with `pred_mask_ratio` so many of them.
          key: of what is drawn; the same key draws the same. None is a fixed one. Under `jax.jit`
            give ids: tokens are chosen on the host.
          train: with input noise and stochastic depth.
          full_decoding: predicts every token, the visible too, as for denoising.

        Returns:
          The loss, and a dict with `loss`, `preds` (B, Q, target_dim), `visible_ids`, `pred_ids`,
          `cls_embeds`, `reg_embeds`, `patch_embeds`, `visible_mask_sum` and `pred_mask_sum`
          (visible pixels, pixels to predict), and `pred_images` in the form of the images: the
          prediction as input values, normalised zero at every token not predicted, 0 off the
          image mask. Where clips differ in their number of tokens, ids end in -1 and rows in zeros.

        Raises:
          InputError: images or masks of another shape, or a model without decoder.
        """
        o = self.options
        if o.decoding == "none":
            raise InputError("This model is an encoder without a decoder: only encode works.")
        images, valid = self._clips(images_BxCxTxHxW, image_mask)
        shown = valid & self._mask(visible_mask, images_BxCxTxHxW)
        wanted = valid & self._mask(pred_mask, images_BxCxTxHxW)
        objective = _objective(o)
        masks = (patchify(mask, objective.geometry, o) for mask in (valid, shown, wanted))
        pixels = Pixels(patchify(images, objective.geometry, o), *masks)
        keys = jax.random.split(jax.random.key(0) if key is None else key, 3)
        words = np.stack([np.zeros(len(images)), np.arange(len(images))], 1).astype(np.uint32)
        draw_B, *noise = (clip_keys(k, words) for k in keys)
        visible = visible_ids_BxL
        if visible is None:
            visible = self._visible(draw_B, pixels, drawn=visible_mask is None)
        visible = self._ids(visible, len(images))
        queries = pred_ids_BxQ
        if queries is None:
            queries = self._queries(draw_B, pixels, visible, full_decoding)
        queries = self._ids(queries, len(images))
        mask, noise = Mask(_index(visible, o), _index(queries, o)), Noise(*noise) if train else None
        out = _forward(o, full_decoding, self.params, pixels, mask, noise)
        out = {name: value for name, value in out.items() if value is not None}
        if images_BxCxTxHxW.ndim == 4:
            out["pred_images"] = out["pred_images"][:, :, 0]
        return out["loss"], {**out, "visible_ids": visible, "pred_ids": queries}

    def encode(self, images_BxCxTxHxW: jax.Array, image_mask=None) -> Embeddings:
        """Embeddings of all tokens with data, in ascending order.

        Args:
          images_BxCxTxHxW: float, normalised; (B, C, H, W) for 2-D models.
          image_mask: 1 where there are data; broadcast to the images. None: the geometry's mask.

        Returns:
          (cls_Bx1xD or None, reg_BxRxD or None, patch_BxNxD), float32. Clips with fewer tokens
          than others end in rows of zeros.

        Raises:
          InputError: images or a mask of another shape.
        """
        images, valid = self._clips(images_BxCxTxHxW, image_mask)
        o, geometry = self.options, _objective(self.options).geometry
        valid = patchify(valid, geometry, o)
        pixels = Pixels(patchify(images, geometry, o), valid, valid, valid)
        return _encode(o, self.params, pixels, _index(_ragged(valid.any(-1)), o))

    def _clips(self, images, image_mask) -> tuple[jax.Array, np.ndarray]:
        """Images as (B, C, T, H, W) and which of their pixels are data."""
        o, (height, width) = self.options, self.geometry.mask.shape
        images = jnp.asarray(images, jnp.float32)
        shape = (o.in_chans, o.frames, height, width)
        flat = (o.in_chans, height, width)
        if images.shape[1:] != shape and not (o.num_frames is None and images.shape[1:] == flat):
            wanted = flat if o.num_frames is None else shape
            raise InputError(f"Images have shape {images.shape}, not (batch, {str(wanted)[1:]}.")
        valid = self._mask(self.geometry.mask if image_mask is None else image_mask, images)
        return images.reshape(-1, *shape), valid

    def _mask(self, mask, images) -> np.ndarray:
        """(B, C, T, H, W) bool; all of it for None."""
        try:
            mask = np.broadcast_to(np.asarray(1 if mask is None else mask) > 0, images.shape)
        except ValueError as error:
            raise InputError(
                f"A mask of shape {np.shape(mask)} does not fit images of shape {images.shape}."
            ) from error
        return mask if images.ndim == 5 else mask[:, :, None]

    def _ids(self, ids, batch: int) -> np.ndarray:
        """(B, K) int32 on the grid; -1 is no token."""
        ids, tokens = np.asarray(ids), self.options.slots * self.options.grid_size
        if ids.ndim != 2 or len(ids) != batch:
            raise InputError(f"Token ids have shape {ids.shape}, not ({batch}, tokens).")
        if ids.size and not (-1 <= ids.min() and ids.max() < tokens):
            raise InputError(
                f"Token ids reach from {ids.min()} to {ids.max()}, not 0 to {tokens - 1}."
            )
        return ids.astype(np.int32)

    def _visible(self, keys_B, pixels: Pixels, drawn: bool) -> np.ndarray:
        has_data = pixels.shown_BxMxV.any(-1)
        if not drawn:
            return _ragged(has_data)
        visible = _objective(self.options).draw(keys_B, pixels).visible_BxL
        return _ragged(has_data & marked(visible, has_data.shape[1]))

    def _queries(self, keys_B, pixels: Pixels, visible, full_decoding: bool) -> np.ndarray:
        o = self.options
        index = _index(visible, o)
        wanted = _objective(o).to_predict(pixels, index, full_decoding)
        candidates = _objective(o).predictable(wanted)
        if not full_decoding:
            candidates = candidates & ~marked(index, candidates.shape[1])
        hidden = np.zeros((len(visible), 0), np.int32)  # visible are no candidates already
        drawn = draw_queries(keys_B, hidden, candidates, o)
        return _ragged(candidates & marked(drawn, candidates.shape[1]))


@functools.lru_cache
def _objective(options: ModelOptions) -> Objective:
    """The objective on every token of the grid: what is off the mask is data that is not there."""
    full = Geometry("grid", np.ones(options.frame_shape, bool), options.patch_shape)
    return Objective(MaskedAutoencoder(options), full)


@functools.partial(jax.jit, static_argnames=("options", "full_decoding"))
def _forward(
    options: ModelOptions,
    full_decoding: bool,
    params,
    pixels: Pixels,
    mask: Mask,
    noise: Noise | None,
) -> dict[str, jax.Array | None]:
    objective = _objective(options)
    with jax.default_matmul_precision("highest"):
        outcome = objective(params, pixels, mask, noise=noise, full_decoding=full_decoding)
    images = unpatchify(objective.restore(outcome, mask), objective.geometry, options)
    valid = unpatchify(pixels.valid_BxMxV, objective.geometry, options)
    seen = objective.see(params, pixels, mask.visible_BxL)
    embeddings = outcome.embeddings
    return {
        "loss": outcome.sums.error / jnp.maximum(outcome.sums.pixels, 1),
        "preds": _blank(outcome.preds_BxQxW, mask.queries_BxQ, options),
        "cls_embeds": embeddings.cls_Bx1xD,
        "reg_embeds": embeddings.reg_BxRxD,
        "patch_embeds": _blank(embeddings.patch_BxLxD, mask.visible_BxL, options),
        "visible_mask_sum": seen.observed_BxL.sum().astype(jnp.float32),
        "pred_mask_sum": outcome.predicted_BxQxV.sum().astype(jnp.float32),
        "pred_images": images * valid,
    }


@functools.partial(jax.jit, static_argnames="options")
def _encode(options: ModelOptions, params, pixels: Pixels, index_BxL) -> Embeddings:
    objective = _objective(options)
    with jax.default_matmul_precision("highest"):
        seen = objective.see(params, pixels, index_BxL)
        cls, reg, patch = objective.model.apply({"params": params}, seen, method="encode")
    return Embeddings(cls, reg, _blank(patch, index_BxL, options))


def _ragged(keep_BxM: np.ndarray) -> np.ndarray:
    """(B, L) int32: the marked tokens of each clip, ascending; shorter rows end in -1."""
    keep_BxM = np.asarray(keep_BxM)
    order = np.argsort(~keep_BxM, axis=1, kind="stable").astype(np.int32)
    count = keep_BxM.sum(1, keepdims=True)
    return np.where(np.arange(order.shape[1]) < count, order, -1)[:, : count.max(initial=0)]


def _index(ids_BxL: np.ndarray, options: ModelOptions) -> np.ndarray:
    """Ids as the objective takes them: no token is an index past the last."""
    return np.where(ids_BxL < 0, options.slots * options.grid_size, ids_BxL).astype(np.int32)


def _blank(rows_BxLxD: jax.Array, index_BxL: jax.Array, options: ModelOptions) -> jax.Array:
    """Zeros in the rows of no token."""
    there_BxL = index_BxL < options.slots * options.grid_size
    return jnp.where(there_BxL[:, :, None], rows_BxLxD, 0)
