"""A frozen probe: what does a model's representation of a clip say of its label?

    python -m fmrifm.probe --config=configs/probe.py --workdir=DIR --config.model=MODEL \\
        --config.data.train=STORE --config.data.val=STORE --config.data.test=STORE

    python -m fmrifm.probe --config=configs/probe.py:task21 --workdir=DIR \\
        --config.data.folder=STORES

The argument `task21` takes the published ViT-B and the 21 task conditions of HCP, on the stores
that `data_tools.import_arrow` makes of the published folder; with --config.data.parcels=STORES,
those of the same folder in parcels, the connectome is that of the published baseline.
"""

from ml_collections import ConfigDict

from data_tools.errors import InputError

TASKS = {
    "": {},
    "task21": {
        "model": "cortex_mae_flat",
        "target": "event:trial_type;task21",
        # All tokens of its clips side by side would be 90 GB.
        "representations": ("avg_patch", "cls"),
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a probe; `arg` is a task of TASKS, or "" for none."""
    if arg not in TASKS:
        raise InputError(
            f"{arg!r} is no task of this config: choose one of {', '.join(filter(None, TASKS))}."
        )
    config = ConfigDict()

    config.seed = 0  # of untrained weights, resamples and randomised decompositions
    config.model = ""  # a pretrain workdir, a model directory, weights, or an id of the hub
    config.unit = "clip"  # what a label belongs to
    config.target = "event:trial_type"  # event:FIELD[;MAP.json] or array:FILE.npy:FIELD
    config.representations = ("patch", "avg_patch", "cls")  # of the model; cls where it has one
    config.heads = ("logistic",)  # classifiers that are fitted to each
    config.baselines = ("connectome", "untrained", "input", "majority")  # on the same clips
    config.leak_keys = ("subject",)  # fields of which no value may be in two splits

    config.data = ConfigDict()
    config.data.folder = ""  # directory of stores train, validation, test: where these are not set
    config.data.train = ""  # stores to fit heads: path?field=pattern,...
    config.data.val = ""  # stores to choose their hyperparameters
    config.data.test = ""  # stores to report, or several splits: name=path,...
    config.data.parcels = ""  # stores of the same runs in parcels, for the connectome; "": patches
    config.data.hrf_delay = 0.0  # seconds from an event's onset to its clip

    config.update_from_flattened_dict(TASKS[arg])
    return config
