"""Every row of a cohort's table: features of the samples, and what is fitted before their head."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.cohort import COHORT, Cohort
from fmrifm.probe.cohort.confound_removal import (
    REMOVALS,
    Components,
    Impute,
    as_columns,
    make_removal,
)
from fmrifm.probe.cohort.cross_fit import Prepare
from fmrifm.probe.cohort.folds import SCHEMES
from fmrifm.probe.features.baselines import Parcels, connectomes, untrained
from fmrifm.probe.features.table_rows import REPRESENTATIONS, Encoded, split_layer, wanted_arrays
from fmrifm.probe.samples.samples import TASKS, UNITS

BASELINES = ("confounds", "connectome", "pca", "input", "untrained", "majority")
HEADS = {"classification": "logistic", "regression": "ridge"}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A row of the table to be.

    Attributes:
      name: of the representation.
      head: logistic, ridge or majority.
      features: (S, D) float32 of each seed; of one where seeds change nothing.
      prepare: what is fitted to them first in each fold.
      baseline: whether it is one.
    """

    name: str
    head: str
    features: list[np.ndarray]
    prepare: list[Prepare]
    baseline: bool


def find_rows(config: ConfigDict, files: ModelFiles, cohort: Cohort, cache: Path) -> Iterator[Row]:
    """Yields the rows, the model's first, in the order of the config."""
    head, chosen = HEADS[config.task], config.baselines
    removal = make_removal(config.confounds.remove, cohort.confounds, config.confounds.site)
    wanted = wanted_arrays(config.representations, [head], chosen)
    encoded = Encoded(files, "", wanted, cohort.splits, cache, cohort.whole)
    for name in config.representations:
        yield Row(name, head, [_take(encoded, name, head)], removal, False)
    if "confounds" in chosen and any(c.varies for c in cohort.confounds):
        columns_SxQ = as_columns([c for c in cohort.confounds if c.varies])
        yield Row("confounds", head, [columns_SxQ], [Impute()], True)
    if "connectome" in chosen:
        parcels = Parcels(config.data.parcels) if config.data.parcels else None
        if parcels is not None:
            parcels.check(cohort.sources, cohort.samples)
        name = f"connectome_{parcels.name if parcels else 'patches'}"
        areas = parcels or cohort.splits.geometry
        num_frames = files.options.num_frames
        x_SxD = connectomes(cohort.sources, cohort.samples, num_frames, areas)
        yield Row(name, head, [x_SxD], removal, True)
    if {"pca", "input"} & {*chosen}:
        x_SxD = encoded.take("input", head)[COHORT].x_SxD
        if "pca" in chosen:
            steps = [*removal, Components(files.options.embed_dim)]
            yield Row("pca", head, [x_SxD], steps, True)
        if "input" in chosen:
            yield Row("input", head, [x_SxD], removal, True)
    if "untrained" in chosen:
        unread = {depth: kinds - {"input"} for depth, kinds in wanted.items()}
        fresh = [
            Encoded(
                untrained(files, config.seed + k), f"untrained {k}", unread, cohort.splits, cache,
                cohort.whole,
            )
            for k in range(config.n_seeds)
        ]  # fmt: skip
        for name in config.representations:
            features = [_take(one, name, head) for one in fresh]
            yield Row(f"untrained_{name}", head, features, removal, True)
    if "majority" in chosen:
        yield majority_row(cohort)


def majority_row(cohort: Cohort) -> Row:
    """Always the commonest class, or the mean."""
    return Row("none", "majority", [np.zeros((len(cohort.samples), 1), np.float32)], [], True)


def _take(encoded: Encoded, name: str, head: str) -> np.ndarray:
    kind, depth = split_layer(name)
    return encoded.take(kind, head, depth)[COHORT].x_SxD


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
