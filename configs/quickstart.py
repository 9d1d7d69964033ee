"""The small models of the quickstart, of a real run and of simulated people: minutes on two cores.

    python -m fmrifm.pretrain --config=configs/quickstart.py --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

Everything that is not set here is as in configs/pretrain.py.
"""

from ml_collections import ConfigDict

from configs.pretrain import get_config as recipe


def get_config() -> ConfigDict:
    """The configuration of either run."""
    config = recipe("d3")
    config.total_steps = 120
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
    # The network begins with what a linear model knows, and predicts what that leaves.
    config.model.network_maps = 160
    config.optim.lr = 1e-3
    return config
