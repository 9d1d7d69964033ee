"""Checks of the configs of probes and cohorts, and of the models that they name."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.confound_removal import REMOVALS
from fmrifm.probe.cohort.folds import SCHEMES
from fmrifm.probe.features.baselines import BASELINES
from fmrifm.probe.features.table_rows import (
    CLOSED_FORM,
    GRID,
    REPRESENTATIONS,
    check_pairs,
    split_layer,
)
from fmrifm.probe.heads.settings import LOSSES, FinetuneSettings, GridSettings, LogisticSettings
from fmrifm.probe.samples.samples import TASKS, UNITS
from fmrifm.probe.scores.metrics import CLASSIFICATION
from fmrifm.runs.config import SEED, check_numbers

FINETUNE = "finetune"
_COHORT_BASELINES = ("confounds", "connectome", "pca", "input", "untrained", "majority")
RUNS = ("once", "last", "every")
FEWEST_PERMUTATIONS = 20  # with fewer no p is below 0.05
_RANGES = {
    SEED: "seed",
    "[1, inf)": "n_seeds",
    "[0, inf)": "random_splits quantiles",
    "(-inf, inf)": "bins data.hrf_delay",
}
_COHORT_RANGES = {
    "[0, inf)": "permutations pictures data.windows",
    "[1, inf)": "splits.repeats",
    "[2, inf)": "splits.folds splits.inner",
    "(0, 1)": "curve",
}
_PROBE_RANGES = {
    "[1, inf)": "grid.batch_size grid.epochs grid.updates finetune.rank finetune.batch_size "
    "finetune.accumulation finetune.epochs",
    "[0, inf)": "wait grid.weight_decay grid.weight_decay_multipliers grid.warmup_epochs "
    "grid.inner finetune.weight_decay finetune.steps_per_epoch finetune.warmup_epochs "
    "finetune.delay_epochs",
    "(0, inf)": "grid.lr grid.lr_multipliers grid.clip_norm finetune.lr finetune.alpha "
    "finetune.head_lr_factor",
    "[0, 1)": "grid.dropout finetune.dropout",
}


def resolve_probe(config: ConfigDict) -> None:
    """Turns lists of the command line, "cls,patch" in one text, into lists of words.

    Raises:
      InputError: a field of a probe's config makes no sense.
    """
    _split_words(config, "representations", "heads", "baselines", "leak_keys")
    heads = (*CLOSED_FORM.get(config.task, ()), *GRID, FINETUNE)
    _check_choices(
        config,
        BASELINES,
        {
            "heads": (heads, config.heads),
            "run": (RUNS, [config.run]),
            "grid.metric": (CLASSIFICATION, [config.grid.metric]),
            "grid.regression_loss": (LOSSES[1:], [config.grid.regression_loss]),
        },
        _PROBE_RANGES,
    )
    LogisticSettings(**config.logistic)
    frozen = [head for head in config.heads if head != FINETUNE]
    if not (config.representations and frozen or {*config.baselines} - {"untrained"}):
        if FINETUNE not in config.heads:
            raise InputError(
                "Nothing is to be fitted: give representations or baselines, and heads."
            )
    if config.grid.balanced_sampling and config.task == "regression":
        raise InputError("grid.balanced_sampling is of classes: set it to False.")
    if {*GRID, "patch_embedding", "identity"} & {*config.heads, *config.baselines}:
        grid_settings(config)
    if FINETUNE in config.heads:
        FinetuneSettings(**config.finetune)
        if config.unit != "clip":
            raise InputError(f"Fine-tuning takes single clips, not a {config.unit}: set unit=clip.")
    if frozen or FINETUNE not in config.heads:
        check_pairs(config)


def resolve_cohort(config: ConfigDict) -> None:
    """As `resolve_probe`, of a cohort's config."""
    _split_words(config, "representations", "baselines")
    _split_words(config.confounds, "fields")
    _check_choices(
        config,
        _COHORT_BASELINES,
        {
            "splits.scheme": (SCHEMES, [config.splits.scheme]),
            "confounds.remove": (REMOVALS, [config.confounds.remove]),
        },
        _COHORT_RANGES,
    )
    if not config.representations:
        raise InputError("Nothing is to be fitted: give representations.")
    if 0 < config.permutations < FEWEST_PERMUTATIONS:
        raise InputError(
            f"permutations must be {FEWEST_PERMUTATIONS} or more to tell anything, or 0 for none."
        )
    if config.splits.scheme == "site" and config.confounds.remove == "combat":
        raise InputError(
            "ComBat cannot learn of a site that is left out: set confounds.remove=regress or "
            "another splits.scheme."
        )


def _split_words(config: ConfigDict, *names: str) -> None:
    for name in names:
        words = [word.strip() for text in config[name] for word in text.split(",")]
        config[name] = tuple(filter(None, words))


def _check_choices(
    config: ConfigDict, baselines: Iterable[str], choices: dict, ranges: dict[str, str]
) -> None:
    """Raises InputError where the fields of all probes make no sense, or one of the choices."""
    choices = {
        "task": (TASKS, [config.task]),
        "unit": (UNITS, [config.unit]),
        "representations": (REPRESENTATIONS, [split_layer(x)[0] for x in config.representations]),
        "baselines": (baselines, config.baselines),
        **choices,
    }
    for name, (allowed, values) in choices.items():
        if unknown := [value for value in values if value not in allowed]:
            if name == "heads" and unknown[0] in {*CLOSED_FORM["regression"], "logistic"}:
                raise InputError(f"The head {unknown[0]} is not of {config.task}: set task.")
            raise InputError(f"{name} has no '{unknown[0]}': choose of {', '.join(allowed)}.")
    for name in ("representations", "heads", "baselines"):
        if name in choices and len({*config[name]}) < len(config[name]):
            raise InputError(f"{name} names one twice: leave it out once.")
    for intervals in (_RANGES, ranges):
        check_numbers(config, intervals)
    if config.random_splits and config.task == "regression":
        raise InputError("random_splits are of logistic regression: set it to 0.")
    if not config.model:
        raise InputError("A probe needs a model: set model to a workdir, a directory or a hub id.")


def resolve_representations(config: ConfigDict, files: ModelFiles) -> None:
    """Leaves out of the config the representations that need a class token if there is none.

    Raises:
      InputError: the model does not have what is asked of it.
    """
    lacks = {"cls": not files.options.class_token, "reg": not files.options.reg_tokens}
    wanted = []
    for name in config.representations:
        kind, depth = split_layer(name)
        if depth is not None and depth > files.options.depth:
            raise InputError(
                f"{name} is past the last of the {files.options.depth} blocks of {config.model}."
            )
        part = "reg" if "reg" in kind else "cls" if "cls" in kind else None
        if not lacks.get(part):
            wanted.append(name)
        elif part == "reg":
            raise InputError(
                f"{config.model} has no registers: choose avg_patch instead of {name}."
            )
    if config.representations and not wanted:
        raise InputError(f"{config.model} has no class token: choose avg_patch instead of cls.")
    config.representations = tuple(wanted)


def grid_settings(config: ConfigDict) -> GridSettings:
    """The settings of trained heads."""
    values = dict(config.grid)
    loss = values.pop("regression_loss")
    del values["standardize"]  # of the features, before any head sees them
    return GridSettings(**values, loss=loss if config.task == "regression" else "cross_entropy")
