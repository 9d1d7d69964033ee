"""A small study: does anything in the images tell its groups apart, and not just confounds?

    python -m fmrifm.probe --config=configs/cohort.py --workdir=DIR --config.model=MODEL \\
        --config.data.path=STORE --config.target=table:diagnoses.csv:diagnosis

takes training and test sets from one store, asks the question many times over, and leaves
report.html in DIR, beside what every probe leaves. The argument `regression` reads a number.
"""

from ml_collections import ConfigDict

from data_tools.errors import InputError

_CONFOUNDS = ("fd_mean", "temporal_snr", "n_frames", "source_tr", "site", "age", "sex")


def get_config(arg: str = "") -> ConfigDict:
    """The configuration of a cohort; `arg` is "" for classes or "regression" for numbers."""
    if arg not in ("", "regression"):
        raise InputError(f"{arg!r} is no argument of this config: leave it out, or `regression`.")
    config = ConfigDict()

    config.seed = 0  # of folds, subsets and permutations
    config.model = ""  # a pretrain workdir, a model directory, weights, or an id of the hub
    config.task = arg or "classification"  # or regression
    config.unit = "subject"  # what a label belongs to: clip, run, session or subject
    config.target = "run:diagnosis"  # run:FIELD, table:FILE.csv:COLUMN, event:FIELD[;MAP.json], ...
    config.bins = ()  # edges that cut a number into classes
    config.quantiles = 0  # or into how many classes of equal size
    config.representations = ("patch_connectome", "avg_patch")  # the first one answers the question
    config.baselines = ("confounds", "connectome", "majority")  # also pca, input, untrained
    config.permutations = 100  # of the labels, each with all fits anew; 0 for none
    config.n_seeds = 3  # of inner folds and of untrained models
    config.curve = (0.25, 0.5, 0.75)  # shares of the subjects learned from, for a learning curve
    config.random_splits = 0  # also so many random splits, sample by sample
    config.pictures = 3  # people whose brain is reconstructed for the report
    config.cache_dir = ""  # where features are kept; features/ of the workdir where not set

    config.data = ConfigDict()
    config.data.path = ""  # stores: path?field=pattern,...
    config.data.parcels = ""  # stores of the same runs in parcels, for the connectome; "": patches
    config.data.windows = 0  # at most so many clips of a run, evenly spread; 0 takes all
    config.data.hrf_delay = 0.0  # seconds from an event's onset to its clip
    config.data.strict = True  # refuse stores of another TR than the model's, or only warn

    config.splits = ConfigDict()
    config.splits.scheme = "kfold"  # kfold; or leave one out at a time: subject, site
    config.splits.folds = 5  # of kfold; fewer where a class has fewer subjects
    config.splits.repeats = 5  # of kfold, each with other folds
    config.splits.inner = 5  # folds within a training set, to choose the strength of penalties
    config.splits.family = ""  # field of the run table whose values keep people together

    config.confounds = ConfigDict()
    config.confounds.fields = _CONFOUNDS  # of the run table or a spreadsheet; without unknown ones
    config.confounds.table = ""  # a spreadsheet of them: a CSV or TSV file with a column subject
    config.confounds.site = "site"  # which of them is the site
    config.confounds.remove = "none"  # from features: regress, or combat (sites only)
    return config
