"""How does the loss fall with the size of the model? d3 to d15, and iso-FLOP curves.

    python -m fmrifm.sweep --config=configs/sweeps/model_scaling.py --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

trains all sizes for equally many steps. With `:iso_flop` each size gets each of four budgets of
compute, and so its own number of steps and its own schedule; the best size of a budget is at the
minimum of a parabola (DIR/scaling/iso_flop.png). `:simulated` and `:simulated,iso_flop` as in
base.py; at budgets of minutes the smallest model is the best, and the report says that no minimum
lies within the sizes. Loss is that of the last checkpoint.
"""

from ml_collections import ConfigDict

from configs.sweeps.base import SIMULATED
from configs.sweeps.base import get_config as base
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import parse_sources, union_geometry
from fmrifm.model.flops import count_flops
from fmrifm.model.options import options_from_config
from fmrifm.sweep.combine import Point, values

REPORTS = ("table", "scaling")
SIZES = ("d3", "d6", "d9", "d12", "d15")
# Floating-point operations of the largest budget; ViT-B's published run takes 5.4e18.
LARGEST = 1e19


def get_config(arg: str = "") -> ConfigDict:
    words = arg.split(",")
    config = base(",".join(word for word in words if word != "iso_flop"))
    if SIMULATED in words:
        config.batch_size = 4
        config.total_steps = 48
        config.eval_every = 0
        config.log_every = 12
        config.optim.lr = 1e-3
    return config


def get_sweep(config: ConfigDict, arg: str) -> list[Point]:
    sizes = values("model.size", *SIZES)
    if "iso_flop" not in arg.split(","):
        return sizes
    small = SIMULATED in arg.split(",")
    points = []
    for budget in (4e12, 2e12, 1e12, 5e11) if small else (LARGEST / 4**k for k in range(4)):
        for size in sizes[:3] if small else sizes:
            steps = steps_of(config, size, budget)
            name = f"flops-{budget:.0e}_size-{size['model.size']}".replace("+", "")
            points.append({"name": name, **size, "total_steps": steps})
    return points


def steps_of(config: ConfigDict, point: Point, flops: float) -> int:
    """The steps that a number of floating-point operations comes to, at least one.

    Args:
      config: of the sweep; its data.train is opened.
      point: fields that are set otherwise.
    """
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(point)
    geometry = union_geometry(parse_sources(config.data.train))
    geometry = cut_geometry(geometry, config.model.patch)
    options = options_from_config(config.model, geometry, config.data.num_frames)
    clips = flops / count_flops(options, geometry.n_patches).total
    return max(1, round(clips / config.batch_size))
