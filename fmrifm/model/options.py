"""Every option of the model in one place, and the table of sizes.

The names are those of the published models, so that a recipe reads the same in both worlds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_tools.errors import InputError
from data_tools.geometry import Geometry

# name: (embed_dim, depth, num_heads, decoder_embed_dim, decoder_depth, decoder_num_heads)
SIZES = {
    "small": (384, 12, 6, 512, 4, 16),
    "base": (768, 12, 12, 512, 4, 16),
    "large": (1024, 24, 16, 512, 4, 16),
    "huge": (1280, 32, 16, 512, 4, 16),
    # The scaling family: everything follows from the depth; decoder heads are 32 wide.
    **{f"d{d}": (64 * d, d, d, 128 * (d // 3), d // 3, 4 * (d // 3)) for d in (3, 6, 9, 12, 15)},
}
SIZE_FIELDS = (
    "embed_dim",
    "depth",
    "num_heads",
    "decoder_embed_dim",
    "decoder_depth",
    "decoder_num_heads",
)
CHOICES = {
    "masking": ("tube", "random"),
    "pos_embed": ("sep", "abs", "sincos"),
    "decoding": ("attn", "cross", "crossreg"),
    "remat": ("none", "dots", "full"),
}


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What fixes the function of a model, all but its weights.

    Attributes:
      grid: rows and columns of the full patch grid.
      patch_dim: pixels of a patch in one frame.
      num_frames: frames of a clip.
      t_patch: frames of a token; divides num_frames.
      embed_dim, depth, num_heads: the encoder.
      decoder_embed_dim, decoder_depth, decoder_num_heads: the decoder.
      class_token: whether the encoder (and the `attn` decoder) has a class token.
      reg_tokens: number of registers.
      no_embed_class: class token and registers have no position of their own.
      pos_embed: `sep` learned space + time, `abs` learned, `sincos` fixed.
      mask_ratio: share of the full grid that is hidden.
      masking: `tube` hides a patch in all frames, `random` any token.
      decoding: `attn` self-attention over visible and mask tokens; `cross` mask tokens attend to
        the encoder's patches; `crossreg` to its registers.
      no_decode_pos: the decoder adds no position to the visible tokens.
      t_pred_stride: predict every so many frames of a token; divides t_patch.
      head_init_scale: factor on the initial weights of the prediction head.
      remat: what the backward pass recomputes: `none`, `dots` all but matrix products, `full`.
    """

    grid: tuple[int, int]
    patch_dim: int
    num_frames: int
    t_patch: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 4
    decoder_num_heads: int = 16
    class_token: bool = True
    reg_tokens: int = 0
    no_embed_class: bool = True
    pos_embed: str = "sep"
    mask_ratio: float = 0.9
    masking: str = "tube"
    decoding: str = "attn"
    no_decode_pos: bool = True
    t_pred_stride: int = 2
    head_init_scale: float = 0.0
    remat: str = "none"

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"model.{name}={getattr(self, name)!r} is unknown: choose one of "
                    f"{', '.join(choices)}."
                )
        for part, whole in (
            ("t_patch", "num_frames"),
            ("t_pred_stride", "t_patch"),
            ("num_heads", "embed_dim"),
            ("decoder_num_heads", "decoder_embed_dim"),
        ):
            if getattr(self, part) < 1 or getattr(self, whole) % getattr(self, part):
                raise InputError(
                    f"model.{part}={getattr(self, part)} must divide "
                    f"{whole}={getattr(self, whole)}."
                )
        if not 0 <= self.mask_ratio < 1:
            raise InputError(f"model.mask_ratio={self.mask_ratio} must lie in [0, 1).")
        if self.decoding == "crossreg" and not self.reg_tokens:
            raise InputError("model.decoding='crossreg' needs registers: set model.reg_tokens.")

    @property
    def grid_size(self) -> int:
        """Patches of the full grid in one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def slots(self) -> int:
        """Time slots: tokens a patch has in a clip."""
        return self.num_frames // self.t_patch

    @property
    def token_dim(self) -> int:
        """Values of a token."""
        return self.t_patch * self.patch_dim

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


def options_from_config(
    config: Mapping[str, Any], geometry: Geometry, num_frames: int
) -> ModelOptions:
    """The options of a `model` config on a geometry that is already cut to its patch size.

    Raises:
      InputError: an unknown size or choice, or numbers that do not divide.
    """
    values = dict(config)
    size = values.pop("size")
    values.pop("patch")  # the geometry has it
    if size not in SIZES:
        raise InputError(f"model.size={size!r} is unknown: choose one of {', '.join(SIZES)}.")
    for name, value in zip(SIZE_FIELDS, SIZES[size], strict=True):
        if values[name] is None:
            values[name] = value
    if values["t_pred_stride"] is None:
        values["t_pred_stride"] = min(2, values["t_patch"])
    return ModelOptions(
        grid=geometry.grid, patch_dim=geometry.patch_dim, num_frames=num_frames, **values
    )
