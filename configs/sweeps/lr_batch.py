"""Learning rate and batch size together, each batch size over equally many clips.

    python -m fmrifm.sweep --config=configs/sweeps/lr_batch.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

`:random` draws 24 pairs instead, rates from a log-uniform range; `:simulated` and
`:simulated,random` as in base.py.
"""

from ml_collections import ConfigDict

from configs.sweeps.base import SIMULATED
from configs.sweeps.base import get_config as base
from fmrifm.sweep.combine import Point, log_uniform, product, sample, values


def get_config(arg: str = "") -> ConfigDict:
    config = base(",".join(word for word in arg.split(",") if word != "random"))
    config.optim.lr, config.optim.base_lr = 1e-3, None  # a point sets the rate itself
    if SIMULATED in arg.split(","):
        config.eval_every = 0
    return config


def get_sweep(config: ConfigDict, arg: str) -> list[Point]:
    words = arg.split(",")
    clips = config.batch_size * config.total_steps
    sizes = [
        config.batch_size * factor for factor in ((0.5, 1, 2) if SIMULATED in words else (1, 4, 16))
    ]
    if "random" in words:
        fields = {"optim.lr": log_uniform(1e-4, 1e-2), "batch_size": [int(x) for x in sizes]}
        points = sample(6 if SIMULATED in words else 24, **fields)
    else:
        points = product(
            values("optim.lr", 3e-4, 1e-3, 3e-3), values("batch_size", *map(int, sizes))
        )
    return [
        {"name": f"lr-{p['optim.lr']:g}_batch-{p['batch_size']}", **p,
         "total_steps": max(1, clips // p["batch_size"])}
        for p in points
    ]  # fmt: skip
