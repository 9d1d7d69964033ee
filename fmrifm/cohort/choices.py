"""What a cohort's config may ask for."""

from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.cohort.folds import SCHEMES
from fmrifm.cohort.removal import REMOVALS
from fmrifm.cohort.rows import BASELINES
from fmrifm.evaluation.entries import REPRESENTATIONS, split_layer
from fmrifm.evaluation.samples import TASKS, UNITS

_AT_LEAST = {
    "permutations": 0, "n_seeds": 1, "random_splits": 0, "pictures": 0, "data.windows": 0,
    "splits.folds": 2, "splits.repeats": 1, "splits.inner": 2,
}  # fmt: skip
FEWEST_PERMUTATIONS = 20  # with fewer no p is below 0.05


def check_cohort(config: ConfigDict) -> None:
    """Raises InputError where a choice of the config is none.

    Lists of the command line, "cls,patch" in one text, become lists.
    """
    for field in ("representations", "baselines"):
        config[field] = _words(config[field])
    config.confounds.fields = _words(config.confounds.fields)
    choices = {
        "task": (TASKS, [config.task]),
        "unit": (UNITS, [config.unit]),
        "representations": (REPRESENTATIONS, [split_layer(x)[0] for x in config.representations]),
        "baselines": (BASELINES, config.baselines),
        "splits.scheme": (SCHEMES, [config.splits.scheme]),
        "confounds.remove": (REMOVALS, [config.confounds.remove]),
    }
    for name, (allowed, values) in choices.items():
        if unknown := [value for value in values if value not in allowed]:
            raise InputError(f"{name} has no '{unknown[0]}': choose of {', '.join(allowed)}.")
    for name in ("representations", "baselines"):
        if len({*config[name]}) < len(config[name]):
            raise InputError(f"{name} names one twice: leave it out once.")
    if not config.representations:
        raise InputError("Nothing is to be fitted: give representations.")
    for name, least in _AT_LEAST.items():
        *path, field = name.split(".")
        value = (config[path[0]] if path else config)[field]
        if value < least:
            raise InputError(f"{name} must be {least} or more.")
    if 0 < config.permutations < FEWEST_PERMUTATIONS:
        raise InputError(
            f"permutations must be {FEWEST_PERMUTATIONS} or more to tell anything, or 0 for none."
        )
    if config.random_splits and config.task == "regression":
        raise InputError("random_splits are of logistic regression: set it to 0.")
    if not all(0 < share < 1 for share in config.curve):
        raise InputError("curve has shares between 0 and 1, such as (0.25, 0.5).")
    if config.splits.scheme == "site" and config.confounds.remove == "combat":
        raise InputError(
            "ComBat cannot learn of a site that is left out: set confounds.remove=regress or "
            "another splits.scheme."
        )
    if not config.model:
        raise InputError("A cohort needs a model: set model to a workdir, a directory or a hub id.")


def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for text in texts for word in text.split(","))))
