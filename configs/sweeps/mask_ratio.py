"""How much of the map should be hidden? Four shares, three seeds each.

    python -m fmrifm.sweep --config=configs/sweeps/mask_ratio.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

The masked loss of another share is that of another task, harder the more is hidden: to tell which
one teaches more, a probe reads each model (`get_probes`; set `--config.probe.task` and
`--config.probe.train`, `val` and `test`). `:simulated` as in base.py.
"""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs.sweeps.base import SIMULATED
from configs.sweeps.base import get_config as base
from fmrifm.sweep.combine import Point, product, values

PROBE = Path(__file__).parents[1] / "probe.py"


def get_config(arg: str = "") -> ConfigDict:
    config = base(arg)
    if arg == SIMULATED:
        config.probe.task = "simulated"
    return config


def get_sweep() -> list[Point]:
    return product(values("model.mask_ratio", 0.5, 0.75, 0.85, 0.95), values("seed", 0, 1, 2))


def get_probes(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """A probe of each model, where there are stores for it."""
    stores = {f"data.{name}": config.probe[name] for name in ("train", "val", "test")}
    if not all(stores.values()):
        return {}
    representations = tuple(config.probe.representations)
    return {
        "task": {
            "config": f"{PROBE}:{config.probe.task}",
            "representations": representations,
            "baselines": (),
            **stores,
        }
    }
