"""How many frames should a token span? 1, 2, 4, 8 and 16.

    python -m fmrifm.sweep --config=configs/sweeps/t_patch.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

Each halving doubles the tokens. All predict each second frame or more, as `model.t_pred_stride` has
it. `:simulated` as in base.py.
"""

from ml_collections import ConfigDict

from configs.sweeps.base import SIMULATED
from configs.sweeps.base import get_config as base
from fmrifm.sweep.combine import Point, values


def get_config(arg: str = "") -> ConfigDict:
    config = base(arg)
    if arg == SIMULATED:
        config.batch_size = 4
        config.total_steps = 24
        config.eval_every = 0
        config.log_every = 8
        config.data.eval_clips = 8
        config.model.mask_ratio = 0.95
        # Tokens of one frame are sixteen times as many: each is decoded alone, and a tenth of them.
        config.model.decoding = "cross"
        config.model.pred_mask_ratio = 0.9
        config.model.t_pred_stride = 1
    return config


def get_sweep() -> list[Point]:
    return values("model.t_patch", 1, 2, 4, 8, 16)
