"""What a probe's config may ask for, and of which model."""

import dataclasses

from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.features.baselines import BASELINES
from fmrifm.probe.features.table_rows import (
    CLOSED_FORM,
    GRID,
    REPRESENTATIONS,
    check_pairs,
    split_layer,
)
from fmrifm.probe.heads.settings import LOSSES, METRICS, FinetuneSettings, GridSettings, lr_schedule
from fmrifm.probe.samples.samples import TASKS, UNITS

FINETUNE = "finetune"
RUNS = ("once", "last", "every")


def check_choices(config: ConfigDict) -> None:
    """Raises InputError where a choice of the config is none.

    Lists of the command line, "cls,patch" in one text, become lists.
    """
    for name in ("representations", "heads", "baselines", "leak_keys"):
        words = [word.strip() for text in config[name] for word in text.split(",")]
        config[name] = tuple(filter(None, words))
    if config.task not in TASKS:
        raise InputError(f"task has no '{config.task}': choose of {', '.join(TASKS)}.")
    heads = (*CLOSED_FORM[config.task], *GRID, FINETUNE)
    choices = {
        "representations": (REPRESENTATIONS, [split_layer(x)[0] for x in config.representations]),
        "heads": (heads, config.heads),
        "baselines": (BASELINES, config.baselines),
        "unit": (UNITS, [config.unit]),
        "run": (RUNS, [config.run]),
        "grid.metric": (METRICS, [config.grid.metric]),
        "grid.regression_loss": (LOSSES[1:], [config.grid.regression_loss]),
    }
    for name, (allowed, values) in choices.items():
        if unknown := [value for value in values if value not in allowed]:
            if name == "heads" and unknown[0] in {*CLOSED_FORM["regression"], "logistic"}:
                raise InputError(f"The head {unknown[0]} is not of {config.task}: set task.")
            raise InputError(f"{name} has no '{unknown[0]}': choose of {', '.join(allowed)}.")
    for name in ("representations", "heads", "baselines"):
        if len({*config[name]}) < len(config[name]):
            raise InputError(f"{name} names one twice: leave it out once.")
    frozen = [head for head in config.heads if head != FINETUNE]
    if not (config.representations and frozen or {*config.baselines} - {"untrained"}):
        if FINETUNE not in config.heads:
            raise InputError(
                "Nothing is to be fitted: give representations or baselines, and heads."
            )
    if config.n_seeds < 1:
        raise InputError("n_seeds must be 1 or more.")
    if config.random_splits < 0 or config.random_splits and config.task == "regression":
        raise InputError("random_splits are of logistic regression: set it to 0, or a number.")
    if config.grid.balanced_sampling and config.task == "regression":
        raise InputError("grid.balanced_sampling is of classes: set it to False.")
    if {*GRID, "patch_embedding", "identity"} & {*config.heads, *config.baselines}:
        lr_schedule(grid_settings(config))
    if FINETUNE in config.heads:
        FinetuneSettings(**config.finetune)
        if config.unit != "clip":
            raise InputError(f"Fine-tuning takes single clips, not a {config.unit}: set unit=clip.")
    if frozen or FINETUNE not in config.heads:
        check_pairs(config)
    if not config.model:
        raise InputError("A probe needs a model: set model to a workdir, a directory or a hub id.")


def check_model(config: ConfigDict, files: ModelFiles) -> None:
    """Raises InputError if the model does not have what is asked of it."""
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
    names = ("lr_multipliers", "weight_decay_multipliers")
    values |= {name: tuple(values[name]) for name in names}
    loss = values.pop("regression_loss")
    del values["standardize"]  # of the features, before any head sees them
    settings = GridSettings(loss="cross_entropy", **values)
    return settings if config.task == "classification" else dataclasses.replace(settings, loss=loss)
