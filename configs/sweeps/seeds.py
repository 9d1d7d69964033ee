"""How far does a result depend on the seed? Five of them; three suffice where runs are dear.

    python -m fmrifm.sweep --config=configs/sweeps/seeds.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

`:simulated` as in base.py.
"""

from configs.sweeps.base import get_config  # noqa: F401
from fmrifm.sweep.combine import Point, values


def get_sweep() -> list[Point]:
    return values("seed", 0, 1, 2, 3, 4)
