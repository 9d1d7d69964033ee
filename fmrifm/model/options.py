"""Every option of the model in one place, and the table of sizes.

The names are those of the published models, so that a recipe reads the same in both worlds.
"""

import dataclasses
from collections.abc import Mapping
from math import inf
from typing import Any

from data_tools.errors import InputError, check_choice
from data_tools.spaces.geometry import Geometry

# name: (embed_dim, depth, num_heads, decoder_embed_dim, decoder_depth, decoder_num_heads)
SIZES = {
    "small": (384, 12, 6, 512, 4, 16),
    "base": (768, 12, 12, 512, 4, 16),
    "large": (1024, 24, 16, 512, 4, 16),
    "huge": (1280, 32, 16, 512, 4, 16),
    # The scaling family: everything follows from the depth; decoder heads are 32 wide.
    **{f"d{d}": (64 * d, d, d, 128 * (d // 3), d // 3, 4 * (d // 3)) for d in (3, 6, 9, 12, 15)},
}
_ENCODER_FIELDS = ("embed_dim", "depth", "num_heads")
SIZE_FIELDS = (*_ENCODER_FIELDS, *(f"decoder_{name}" for name in _ENCODER_FIELDS))
CHOICES = {
    "masking": ("tube", "random"),
    "pos_embed": ("sep", "abs", "sincos"),
    "decoding": ("attn", "cross", "crossreg", "none"),
    "target_norm": ("none", "global", "frame", "patch", "pca"),
    "remat": ("none", "dots", "attention", "full"),
}
# name: (least, below); None always passes.
RANGES = {
    # A damaged file must not ask for tables larger than the memory.
    **dict.fromkeys(("embed_dim", "decoder_embed_dim"), (1, 2**16)),
    **dict.fromkeys(("num_frames", "t_patch", "in_chans", "pca_norm_nc"), (1, inf)),
    **dict.fromkeys(("depth", "decoder_depth"), (0, 10_000)),
    **dict.fromkeys(("pred_edge_pad", "mask_patch_size", "gauss_sigma"), (0, inf)),
    **dict.fromkeys(("head_init_scale", "network_maps", "reg_tokens"), (0, inf)),
    **dict.fromkeys(("mask_ratio", "pred_mask_ratio", "drop_path_rate"), (0, 1)),
}
DIVISORS = (
    ("t_patch", "num_frames"),
    ("t_pred_stride", "t_patch"),
    ("num_heads", "embed_dim"),
    ("decoder_num_heads", "decoder_embed_dim"),
)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What fixes the function of a model, all but its weights.

    Attributes:
      grid: rows and columns of the full patch grid.
      patch_shape: height and width of a patch in pixels.
      num_frames: frames of a clip; None for 2-D images.
      t_patch: frames of a token; divides num_frames. 1 for images.
      in_chans: channels of a pixel.
      embed_dim, depth, num_heads: the encoder; depth 0 is the patch embedding alone.
      decoder_embed_dim, decoder_depth, decoder_num_heads: the decoder.
      class_token: whether the encoder (and the `attn` decoder) has a class token.
      reg_tokens: number of registers.
      no_embed_class: class token and registers have no position of their own.
      pos_embed: `sep` learned space + time, `abs` learned, `sincos` fixed.
      drop_path_rate: stochastic depth of the encoder's last block, growing linearly from 0.
      mask_drop_scale: a token's values are scaled by its values / its observed values.
      gauss_sigma: training inputs are mixed with noise, by a share drawn from [0, gauss_sigma].
      mask_ratio: share of the full grid that is hidden.
      masking: `tube` hides a patch in all frames, `random` any token.
      mask_patch_size: side in pixels of the squares that are drawn; 0 draws single patches.
      decoding: `attn` self-attention over visible and mask tokens; `cross` mask tokens attend to
        the encoder's patches; `crossreg` to its registers; `none` an encoder without a decoder.
      no_decode_pos: the decoder adds no position to the visible tokens.
      t_pred_stride: predict every so many frames of a token; divides t_patch.
      pred_mask_ratio: share of the full grid that is not predicted, drawn among the masked tokens;
        None predicts all of them.
      pred_edge_pad: pixels so near to a visible pixel are not predicted.
      target_norm: over which valid pixels targets are normalised: `global` of the clip, `frame` of
        a time slot, `patch` of a token, `pca` of a frame after its first components are taken out.
      pca_norm_nc: number of these components.
      head_init_scale: factor on the initial weights of the prediction head.
      network_maps: number of maps of a linear model whose prediction the network goes on from, and
        whose codes its class token begins with; 0 for none.
      remat: what the backward pass recomputes of each block: `none`; `dots` all but matrix products
        and attention; `attention` all but attention; `full` everything.
    """

    grid: tuple[int, int]
    patch_shape: tuple[int, int]
    num_frames: int | None
    t_patch: int
    embed_dim: int
    depth: int
    num_heads: int
    in_chans: int = 1
    decoder_embed_dim: int = 512
    decoder_depth: int = 4
    decoder_num_heads: int = 16
    class_token: bool = True
    reg_tokens: int = 0
    no_embed_class: bool = True
    pos_embed: str = "sep"
    drop_path_rate: float = 0.0
    mask_drop_scale: bool = False
    gauss_sigma: float = 0.0
    mask_ratio: float = 0.9
    masking: str = "tube"
    mask_patch_size: int = 0
    decoding: str = "attn"
    no_decode_pos: bool = True
    t_pred_stride: int = 2
    pred_mask_ratio: float | None = None
    pred_edge_pad: int = 0
    target_norm: str = "none"
    pca_norm_nc: int = 2
    head_init_scale: float = 0.0
    network_maps: int = 0
    remat: str = "none"

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(f"model.{name}", getattr(self, name), choices)
        for name, (least, below) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value < below:
                wanted = f"be at least {least}" if below == inf else f"lie in [{least}, {below})"
                raise InputError(f"model.{name}={value} must {wanted}.")
        for part, whole in DIVISORS:
            value, total = getattr(self, part), getattr(self, whole)
            used = self.decoding != "none" or not part.startswith("decoder")
            if used and total is not None and (value < 1 or total % value):
                raise InputError(f"model.{part}={value} must divide {whole}={total}.")
        self._check_together()

    def _check_together(self) -> None:
        """Raises InputError for options that exclude each other."""
        if self.decoding == "crossreg" and not self.reg_tokens:
            raise InputError("model.decoding='crossreg' needs registers: set model.reg_tokens.")
        if self.num_frames is None and (self.t_patch != 1 or self.pos_embed == "sep"):
            raise InputError(
                "2-D images have no time: set model.t_patch=1 and model.pos_embed to abs or sincos."
            )
        for name in ("embed_dim", "decoder_embed_dim"):
            if self.num_frames is None and self.pos_embed == "sincos" and getattr(self, name) % 4:
                raise InputError(
                    f"model.{name}={getattr(self, name)} must be a multiple of 4 for the sincos "
                    "positions of images."
                )
        if self.gauss_sigma > 1:
            raise InputError(f"model.gauss_sigma={self.gauss_sigma} must be at most 1.")
        if self.query_limit < 1:
            raise InputError(
                f"model.pred_mask_ratio={self.pred_mask_ratio} leaves no token to predict: lower "
                "it."
            )
        if self.network_maps and (
            self.num_frames is None or self.in_chans != 1 or self.target_norm != "none"
        ):
            raise InputError(
                "model.network_maps predicts clips of one channel: set model.target_norm='none'."
            )
        if self.network_maps and not self.class_token:
            raise InputError("model.network_maps go into the class token: set model.class_token.")
        if self.target_norm == "pca" and self.num_frames is None:
            raise InputError("model.target_norm='pca' is for clips, not for 2-D images.")
        side = self.patch_shape[0]
        if self.mask_patch_size and (
            self.patch_shape != (side, side) or self.mask_patch_size % side
        ):
            raise InputError(
                f"model.mask_patch_size={self.mask_patch_size} must be a multiple of the side of "
                f"square patches, and these are {' x '.join(map(str, self.patch_shape))}."
            )

    @property
    def grid_size(self) -> int:
        """Patches of the full grid in one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.grid[0] * self.patch_shape[0], self.grid[1] * self.patch_shape[1]

    @property
    def frames(self) -> int:
        """Frames of a clip; an image is one."""
        return self.num_frames or 1

    @property
    def slots(self) -> int:
        """Time slots: tokens a patch has in a clip."""
        return self.frames // self.t_patch

    @property
    def patch_dim(self) -> int:
        """Pixels of a patch in one frame."""
        return self.patch_shape[0] * self.patch_shape[1]

    @property
    def token_dim(self) -> int:
        """Values of a token."""
        return self.in_chans * self.t_patch * self.patch_dim

    @property
    def target_dim(self) -> int:
        """Values predicted for a token."""
        return self.token_dim // self.t_pred_stride

    @property
    def visible_count(self) -> int:
        """Units the encoder sees: patches under `tube`, tokens under `random`.

        Counted on the full grid and cut off, as the reference does; in double precision
        0.9 of 490 leaves 48, not 49.
        """
        units = self.grid_size * (1 if self.masking == "tube" else self.slots)
        return int((1 - self.mask_ratio) * units)

    @property
    def query_limit(self) -> int:
        """The most tokens that are predicted, counted like `visible_count`."""
        tokens = self.grid_size * self.slots
        if self.pred_mask_ratio is None:
            return tokens
        return int((1 - self.pred_mask_ratio) * tokens)

    @property
    def square(self) -> int:
        """Side of the squares that masking draws, in patches."""
        return max(1, self.mask_patch_size // self.patch_shape[0])


def options_from_config(
    config: Mapping[str, Any], geometry: Geometry, num_frames: int
) -> ModelOptions:
    """The options of a `model` config on a geometry that is already cut to its patch size.

    Raises:
      InputError: an unknown size or choice, or numbers that do not divide.
    """
    values = dict(config)
    size = values.pop("size", None)
    values.pop("patch", None)  # the geometry has it
    values.pop("pca_components", None)  # data, not an option
    known = {field.name for field in dataclasses.fields(ModelOptions)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise InputError(f"The config has no field model.{unknown[0]}: see configs/pretrain.py.")
    check_choice("model.size", size, SIZES)
    for name, value in zip(SIZE_FIELDS, SIZES[size], strict=True):
        if values.get(name) is None:
            values[name] = value
    if values.get("t_pred_stride") is None:
        values["t_pred_stride"] = min(2, values["t_patch"])
    return ModelOptions(
        grid=geometry.grid, patch_shape=geometry.patch_shape, num_frames=num_frames, **values
    )
