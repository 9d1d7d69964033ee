"""What the sweeps of this directory start from.

The argument is one of configs/pretrain.py, so `vit_b` or `d6,runlocal`; `simulated` instead makes a
point minutes or less on two cores, on what `data_tools.simulate` makes:

    python -m data_tools.simulate --output=stores/simulated --subjects=80 --runs=1 --rest-runs=1 \\
        --frames=120 --splits=0.8,0.1,0.1
    python -m fmrifm.sweep --config=configs/sweeps/seeds.py:simulated --workdir=sweeps/seeds \\
        --config.data.train=stores/simulated/train \\
        --config.data.eval=val=stores/simulated/val,test=stores/simulated/test
"""

from ml_collections import ConfigDict

from configs.pretrain import get_config as recipe
from configs.quickstart import get_config as small

SIMULATED = "simulated"


def get_config(arg: str = "") -> ConfigDict:
    """The configuration that the points of a sweep change."""
    if arg != SIMULATED:
        return recipe(arg)
    config = small()
    # What is compared here is how the published form learns.
    config.model.network_maps = 0
    config.model.head_init_scale = 1.0
    config.optim.lr = 2e-3
    config.total_steps = 120
    config.log_every = 40
    config.eval_every = config.checkpoint_every = 60
    config.keep_checkpoints = 1
    config.figures = 0
    config.data.eval_clips = 64
    return config
