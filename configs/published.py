"""The published recipes by name.

    python -m fmrifm.pretrain --config=configs/published.py:RECIPE --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

Everything that is not named in RECIPES is as in configs/pretrain.py, the newer default. The
argument may end in `,runlocal`.
"""

from ml_collections import ConfigDict

from configs.pretrain import get_config as newer_default
from data_tools.errors import unknown

# The older release: 16 frames, patches of 16 x 16, tokens of t_patch frames.
OLDER = {
    "model.masking": "random",
    "model.no_embed_class": False,
    "model.no_decode_pos": False,
    "model.head_init_scale": 1.0,
}
RECIPES = {
    "newer": {},
    "older_16-16-16": {**OLDER, "model.t_patch": 16},
    "older_16-16-2": {**OLDER, "model.t_patch": 2},
    "patch_norm": {"model.target_norm": "patch"},  # pixels normalised within each token
    "pca_norm": {"model.target_norm": "pca", "model.pca_components": "cortex_mae"},
    # Nothing that could be interpolated from the edge of a visible patch is predicted.
    "cross_edge4": {"model.decoding": "cross", "model.pred_edge_pad": 4},
    "denoise": {"model.reg_tokens": 1, "model.pred_edge_pad": 4},
    "crossreg4": {"model.decoding": "crossreg", "model.reg_tokens": 4},
    # Stores of parcels (400 x 1, 450 x 1 ...) and of cortex volumes (465 x 512).
    "parcels": {"model.patch": 0, "optim.base_lr": 3e-4},
    "volume": {"model.patch": 0},
}


def get_config(arg: str = "newer") -> ConfigDict:
    """The configuration of a recipe; `arg` is `RECIPE[,runlocal]`."""
    recipe, _, rest = arg.partition(",")
    if recipe not in RECIPES:
        raise unknown(f"{recipe!r} is no published recipe", RECIPES)
    config = newer_default(rest)
    config.update_from_flattened_dict(RECIPES[recipe])
    if config.optim.base_lr is not None:
        config.optim.lr = None  # the recipe's own rate, also where runlocal has set one
    return config
