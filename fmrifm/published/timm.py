"""Weights of timm's Vision Transformers as an encoder of 2-D images.

The two differ in names only, but for two things: there q, k and v are one matrix and the positions
of class token, registers and patches one table.
"""

import math
from collections.abc import Mapping

import numpy as np

from data_tools.errors import InputError
from fmrifm.model.options import ModelOptions

# Heads of a classifier, which an encoder has no use for.
HEADS = ("head.", "head_dist.", "fc_norm.")


def is_timm(state: Mapping[str, np.ndarray]) -> bool:
    return "blocks.0.attn.qkv.weight" in state


def read_timm(
    state: Mapping[str, np.ndarray],
    num_heads: int | None,
    grid_of: tuple[int, int] | None,
    where: str,
) -> tuple[ModelOptions, dict[str, np.ndarray]]:
    """Options and weights under the published names of an encoder alone.

    Args:
      num_heads: None takes 64 channels a head, as these models nearly all have; it is in no shape.
      grid_of: height and width of a frame in pixels; None for a square one.
    """
    for name, axes in (("patch_embed.proj.weight", 4), ("pos_embed", 3)):
        if name not in state or state[name].ndim != axes:
            raise InputError(
                f"{where} looks like a timm Vision Transformer, but its {name} is missing or not "
                f"of {axes} axes: only models with learned absolute positions can be read."
            )
    width, channels, *patch = state["patch_embed.proj.weight"].shape
    if num_heads is None:
        num_heads = max(1, width // 64)
        print(f"Taking {num_heads} heads of {width // num_heads}: --num_heads says otherwise.")
    n_cls = int("cls_token" in state)
    n_reg = state["reg_token"].shape[1] if "reg_token" in state else 0
    rows = state["pos_embed"].shape[1]
    grid, own = _grid(rows, n_cls + n_reg, patch, grid_of, where)
    options = ModelOptions(
        grid=grid,
        patch_shape=tuple(patch),
        num_frames=None,
        t_patch=1,
        in_chans=channels,
        embed_dim=width,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=num_heads,
        class_token=bool(n_cls),
        reg_tokens=n_reg,
        no_embed_class=bool(n_cls + n_reg) and not own,
        pos_embed="abs",
        masking="random",
        mask_ratio=0.75,
        decoding="none",
        no_decode_pos=False,
        t_pred_stride=1,
        head_init_scale=1.0,
    )
    dropped = [name for name in state if name.startswith(HEADS)]
    if dropped:
        print(f"Left out the classifier: {', '.join(dropped)}.")
    out = {}
    for name, value in state.items():
        if name in dropped or name == "pos_embed":
            continue
        elif name.startswith("patch_embed.proj."):
            name = name.replace(".proj", "")
            out[name] = value.reshape(width, -1) if value.ndim == 4 else value
        elif ".attn.qkv." in name and len(value) % 3 == 0:
            for part, letter in zip(np.split(value, 3), "qkv", strict=True):
                out[name.replace("qkv", letter)] = part
        else:
            out[name] = value
    table, first = state["pos_embed"], n_cls + n_reg if own else 0
    out["pos_embed.weight"] = table[0, first:]
    if own and n_cls:
        out["cls_token_pos"] = table[:, :n_cls]
    if own and n_reg:
        out["reg_token_pos"] = table[:, n_cls:first]
    return options, out


def _grid(rows, special, patch, frame, where) -> tuple[tuple[int, int], bool]:
    """The patch grid, and whether the table has rows for the `special` tokens, too."""
    for own in (True, False):
        patches = max(0, rows - special * own)
        side = math.isqrt(patches)
        grid = (frame[0] // patch[0], frame[1] // patch[1]) if frame else (side, side)
        if patches and grid[0] * grid[1] == patches:
            return grid, bool(special) and own
    if frame is None:
        raise InputError(f"{where} has {rows} positions, which is no square grid: give --geometry.")
    raise InputError(
        f"{where} has {rows} positions, which is no {grid[0]} x {grid[1]} grid: give --geometry of "
        "the frames it was made for."
    )
