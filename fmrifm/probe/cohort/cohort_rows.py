"""Every row of a cohort's table: features of the samples, and what is fitted before their head."""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.cohort import COHORT, Cohort
from fmrifm.probe.cohort.confound_removal import Components, Impute, as_columns, make_removal
from fmrifm.probe.cohort.cross_fit import Row
from fmrifm.probe.features.table_rows import Encoded, connectome_vectors, open_parcels

COHORT_BASELINES = ("confounds", "connectome", "pca", "input", "untrained", "majority")
HEADS = {"classification": "logistic", "regression": "ridge"}


MAJORITY = Row("none", "majority", [], [], True)  # always the commonest class, or the mean


def find_rows(config: ConfigDict, files: ModelFiles, cohort: Cohort, cache: Path) -> Iterator[Row]:
    """Yields the rows, the model's first, in the order of the config."""
    head, chosen, splits = HEADS[config.task], config.baselines, cohort.splits
    removal = make_removal(config.confounds.remove, cohort.confounds, config.confounds.site)
    encoded = Encoded(config, [head], files, splits, cache)
    for name in config.representations:
        yield Row(name, head, [encoded.take(name, head)[COHORT].x_SxD], removal, False)
    varying = [confound for confound in cohort.confounds if confound.varies]
    if "confounds" in chosen and varying:
        yield Row("confounds", head, [as_columns(varying)], [Impute()], True)
    if "connectome" in chosen:
        parcels = open_parcels(config.data.parcels, splits)
        name, x_SxD = connectome_vectors(files, splits, parcels)
        yield Row(name, head, [x_SxD[COHORT]], removal, True)
    if {"pca", "input"} & {*chosen}:
        x_SxD = encoded.take("input", head)[COHORT].x_SxD
        if "pca" in chosen:
            steps = [*removal, Components(files.options.embed_dim)]
            yield Row("pca", head, [x_SxD], steps, True)
        if "input" in chosen:
            yield Row("input", head, [x_SxD], removal, True)
    if "untrained" in chosen:
        seeds = range(config.n_seeds)
        fresh = [encoded.untrained(config.seed + k, f"untrained {k}") for k in seeds]
        for name in config.representations:
            features = [one.take(name, head)[COHORT].x_SxD for one in fresh]
            yield Row(f"untrained_{name}", head, features, removal, True)
    if "majority" in chosen:
        yield MAJORITY
