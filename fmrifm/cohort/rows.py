"""Every row of a cohort's table: features of the samples, and what is fitted before their head."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fmrifm.cohort.confounds import as_columns
from fmrifm.cohort.cross_fit import Prepare
from fmrifm.cohort.data import COHORT, Cohort
from fmrifm.cohort.removal import Components, Impute, make_removal
from fmrifm.evaluation.baselines import untrained
from fmrifm.evaluation.connectome import Parcels, connectomes
from fmrifm.evaluation.entries import Encoded, split_layer, wanted_arrays
from fmrifm.model.files import ModelFiles

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
