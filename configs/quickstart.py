"""The small models of the quickstart: minutes on two cores.

    python -m fmrifm.pretrain --config=configs/quickstart.py:rest --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

Everything that is not set here is as in configs/pretrain.py. The argument is `rest` for the first
training on a real run, `task` for going on with simulated data.
"""

from ml_collections import ConfigDict

from configs.pretrain import get_config as recipe


def get_config(arg: str = "rest") -> ConfigDict:
    """The configuration of one of the two runs."""
    config = recipe("d3")
    config.total_steps = {"rest": 480, "task": 60}[arg]
    config.batch_size = 8
    config.log_every = 10
    config.eval_every = config.checkpoint_every = config.total_steps // 3
    config.compute_dtype = "float32"  # CPUs have no fast bfloat16
    config.data.eval_clips = 32
    # Normalising each frame takes the global signal out, which is what a model learns first.
    config.data.normalize = "global"
    config.model.t_patch = 16  # one token a patch: the shortest sequences
    config.model.t_pred_stride = 4  # the run is band-passed: frames 4 s apart say most of it
    config.model.mask_ratio = 0.85
    # A fixed map of positions and a decoder that knows them need no hours to be learned.
    config.model.pos_embed = "sincos"
    config.model.no_decode_pos = False
    config.model.head_init_scale = 1.0
    config.optim.lr = 2e-3
    return config
