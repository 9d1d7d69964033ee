"""How does the loss fall with the number of subjects? Nested subsets of them, in two draws.

    python -m fmrifm.sweep --config=configs/sweeps/data_scaling.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=val=STORE,test=STORE[,NAME=STORE]

Each draw is an order of the subjects of data.train, of which a point takes the first 1/2, 1/4 ...
1/64, and all. Small sets are learned by heart, so a point reports its best checkpoint: that with
the least loss on the evaluation set `val`, which itself is not reported. When all are done, laws
are fitted to the other sets (DIR/scaling). `:simulated` takes subsets from 1 subject on, best of
short runs, which are soon learned by heart:

    python -m data_tools.simulate --output=stores/short --subjects=96 --runs=0 --rest-runs=1 \\
        --frames=40 --splits=0.667,0.1665,0.1665
"""

from ml_collections import ConfigDict

from configs.sweeps.base import SIMULATED
from configs.sweeps.base import get_config as base
from data_tools.errors import InputError
from data_tools.store.selection import open_selection
from fmrifm.sweep.combine import Point

REPORTS = ("table", "scaling")
DRAWS = (1, 2)


def get_config(arg: str = "") -> ConfigDict:
    config = base(arg)
    config.keep_best = "val"
    if arg == SIMULATED:
        config.total_steps = 300
        config.log_every = config.eval_every = 50
        config.checkpoint_every = 150
    return config


def get_sweep(config: ConfigDict, arg: str) -> list[Point]:
    store = config.data.train
    if not store or "," in store or "@" in store:
        raise InputError("This sweep takes subsets of one store: set data.train to its path.")
    joint = "&" if "?" in store else "?"
    count = len({line["subject"] for line in open_selection(store).lines})
    levels = [count >> k for k in range(6, -1, -1) if count >> k]
    if arg == SIMULATED:
        levels = [n for n in (1, 2, 4, 8, 16, 32) if n < count] + [count]
    return [
        {
            "name": f"draw-{draw}_subjects-{n:0{len(str(count))}}",
            "seed": draw,  # all subjects are the same ones in each draw
            "data.train": f"{store}{joint}subject=draw:{n}:{draw}",
        }
        for draw in DRAWS
        for n in levels
    ]
