"""A frozen probe: what does a model's representation of a clip say of its label?

    python -m fmrifm.probe --config=configs/probe.py --workdir=DIR --config.model=MODEL \\
        --config.data.train=STORE --config.data.val=STORE --config.data.test=STORE

    python -m fmrifm.probe --config=configs/probe.py:task21 --workdir=DIR \\
        --config.data.folder=STORES

The argument `task21` takes the published ViT-B and the 21 task conditions of HCP, on the stores
that `data_tools.import_arrow` makes of the published folder; with --config.data.parcels=STORES,
those of the same folder in parcels, the connectome is that of the published baseline. Other tasks
are in TASKS: `sex`, `age`, `nsd`, `subject`, `arrow` (of time), ... `simulated` runs on what
`data_tools.simulate` makes. With `,brainmarks` behind the task heads are chosen on the splits and
learning rates of Brainmarks, so that its numbers can be repeated.
"""

from ml_collections import ConfigDict

from data_tools.errors import unknown

_MULTIPLIERS = tuple(0.02 * 2500 ** (i / 48) for i in range(49))  # log-spaced, 0.02 to 50
_ATTENTIVE = {
    "representations": ("patch", "avg_patch", "cls"),
    "heads": ("attn", "linear"),
    "baselines": ("connectome", "patch_embedding", "identity", "untrained", "majority"),
}
_TRAIT = {
    "unit": "run",
    "representations": ("avg_patch", "cls"),
    "baselines": ("connectome", "pca", "untrained", "input", "majority"),
}
TASKS = {
    "": {},
    "simulated": {"target": "event:trial_type", "heads": ("logistic", "knn")},
    "task21": {
        "model": "cortex_mae_flat",
        "target": "event:trial_type;task21",
        # All tokens of its clips side by side would be 90 GB.
        "representations": ("avg_patch", "cls"),
    },
    "task21_attentive": {
        "model": "cortex_mae_flat",
        "target": "event:trial_type;task21",
        **_ATTENTIVE,
    },
    "nsd": {
        "model": "cortex_mae_flat",
        "target": "event:category_id;nsd_cococlip",
        # Its testid has the subjects of train.
        "leak_keys": ("session",),
        **_ATTENTIVE,
    },
    "nsd_embedding": {
        "model": "cortex_mae_flat",
        "task": "regression",
        "target": "array:embeddings.npy:nsd_id",
        "leak_keys": ("session",),
        "representations": ("avg_patch", "cls"),
        "heads": ("ridge", "linear"),
        "grid.regression_loss": "cosine",
    },
    "ukbb_sex": {"target": "run:sex", "random_splits": 100, **_TRAIT},
    "sex": {"target": "run:sex", **_TRAIT},
    "age": {"target": "run:age", "task": "regression", **_TRAIT, "heads": ("ridge",)},
    "age_bins": {"target": "run:age", "quantiles": 3, **_TRAIT},
    # Its subjects are those of train, in other runs.
    "subject": {"target": "run:subject", "leak_keys": ("key",), **_TRAIT, "unit": "clip"},
    "arrow": {"target": "time:arrow", "heads": ("logistic",)},
}


# Brainmarks: its seed, its splits, and its multipliers, which have two digits.
BRAINMARKS = {
    "seed": 4466,
    "random_splits": 100,
    "logistic.protocol": "brainmarks",
    "grid.lr_multipliers": tuple(float(f"{10 ** (-1.7 + 3.4 * i / 48):.2g}") for i in range(49)),
}


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a probe; `arg` is `[TASK][,brainmarks]`, with a task of TASKS."""
    arg, comma, peer = arg.partition(",")
    if arg not in TASKS:
        raise unknown(f"{arg!r} is no task of this config", filter(None, TASKS))
    if peer != "brainmarks" * bool(comma):
        raise unknown(f"{peer!r} behind the task is unknown", ["brainmarks"])
    config = ConfigDict()

    config.seed = 0  # of weights, batches, resamples and randomised decompositions
    config.model = ""  # a pretrain workdir, a model directory, weights, or an id of the hub
    config.run = "once"  # once; or the newest ("last") or "every" checkpoint of a pretrain workdir
    config.wait = 0.0  # seconds to wait for the next checkpoint of a run that has not ended
    config.task = "classification"  # or regression
    config.unit = "clip"  # what a label belongs to: clip, run, session or subject
    config.target = "event:trial_type"  # event:FIELD[;MAP.json], run:FIELD, table:FILE:COLUMN, ...
    config.bins = ()  # edges that cut a number into classes
    config.quantiles = 0  # or into how many classes of equal size, by the training set
    config.representations = ("patch", "avg_patch", "cls")  # patch@6: after six blocks
    config.heads = ("logistic",)  # logistic ridge knn linear attn mlp finetune
    config.baselines = ("connectome", "pca", "untrained", "input", "majority")  # see baselines.py
    config.leak_keys = ("subject",)  # fields of which no value may be in two splits
    config.n_seeds = 1  # of heads; from 2 on results tell how far scores depend on them
    config.random_splits = 0  # logistic regression also on so many random splits, row by row
    config.cache_dir = ""  # where features are kept; features/ of the workdir where not set

    config.data = ConfigDict()
    config.data.folder = ""  # directory of stores train, validation, test: where these are not set
    config.data.train = ""  # stores to fit heads: path?field=pattern,...
    config.data.val = ""  # stores to choose their hyperparameters
    config.data.test = ""  # stores to report, or several splits: name=path,...
    config.data.parcels = ""  # stores of the same runs in parcels, for the connectome; "": patches
    config.data.hrf_delay = 0.0  # seconds from an event's onset to its clip
    config.data.strict = True  # refuse stores of another TR than the model's, or only warn

    config.logistic = ConfigDict()  # of the head logistic
    config.logistic.class_weight = "none"  # or balanced: samples of rare classes weigh more
    config.logistic.protocol = "fmrifm"  # or brainmarks: splits for C and random splits as it draws

    config.grid = ConfigDict()  # of the trained heads linear, attn and mlp
    config.grid.lr = 3e-4  # learning rate, before its multipliers
    config.grid.lr_multipliers = _MULTIPLIERS  # of the learning rate, a head each
    config.grid.weight_decay = 0.05  # before its multipliers; biases and norms have none
    config.grid.weight_decay_multipliers = (1.0,)  # the grid is the product of both
    config.grid.epochs = 20  # after each, heads are scored on the validation set
    config.grid.updates = 200  # of an epoch
    config.grid.warmup_epochs = 5  # of linear warm-up
    config.grid.batch_size = 128  # samples of an update
    config.grid.clip_norm = 1.0  # largest norm of each head's gradient
    config.grid.standardize = False  # features of the linear head, what a batch norm comes to
    config.grid.dropout = 0.0  # of the mlp head
    config.grid.inner = 0  # inner width of attn and mlp; 0 takes that of the features
    config.grid.balanced_sampling = False  # draw classes equally
    config.grid.regression_loss = "mse"  # or cosine
    config.grid.metric = "accuracy"  # on the validation set: accuracy, balanced_accuracy, f1_macro

    config.finetune = ConfigDict()  # of the head finetune, which trains the encoder too
    config.finetune.mode = "full"  # or lora: low-rank adapters
    config.finetune.rank = 8  # of adapters
    config.finetune.alpha = 16.0  # adapters are scaled by alpha / rank
    config.finetune.dropout = 0.05  # of what goes into adapters
    config.finetune.pattern = ""  # of the paths of kernels that get adapters; all
    config.finetune.freeze = ""  # of the paths of parameters that stay, with full
    config.finetune.lr = 1e-4  # peak learning rate of the encoder
    config.finetune.head_lr_factor = 10.0  # that of the head is so much higher
    config.finetune.weight_decay = 0.05  # of matrices
    config.finetune.batch_size = 32  # clips at once
    config.finetune.accumulation = 4  # such batches in an update
    config.finetune.epochs = 20  # each is scored on the validation set
    config.finetune.steps_per_epoch = 0  # updates; 0 shows each training clip once
    config.finetune.warmup_epochs = 5  # of linear warm-up
    config.finetune.delay_epochs = 0  # in which only the head learns
    config.finetune.head = "attn"  # or linear
    config.finetune.representation = "patch"  # or cls

    config.update_from_flattened_dict(TASKS[arg])
    if peer:
        config.update_from_flattened_dict(BRAINMARKS)
        if config.task == "regression":  # has no random splits
            config.random_splits = 0
    return config
