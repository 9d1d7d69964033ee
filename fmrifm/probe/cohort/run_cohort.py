"""A cohort's question, from its config to its answer.

Letters: S samples, K classes or columns of numbers, R repeats, N seeds.
"""

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import joblib
import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.check_config import FEWEST_PERMUTATIONS, resolve_cohort, resolve_representations
from fmrifm.probe.cohort.cohort import COHORT, Cohort, describe, list_people, open_cohort
from fmrifm.probe.cohort.cohort_report import write_report
from fmrifm.probe.cohort.confound_removal import (
    MOTION,
    as_columns,
    components,
    impute,
    make_removal,
)
from fmrifm.probe.cohort.cross_fit import (
    Row,
    cross_fit,
    learning_curve,
    permuted_scores,
    run_jobs,
)
from fmrifm.probe.cohort.folds import check_sites, make_folds
from fmrifm.probe.cohort.scores import (
    Repeats,
    by_site,
    compare_rows,
    score_repeats,
    split_variance,
    with_motion,
)
from fmrifm.probe.cohort.verdict import answer, find_warnings
from fmrifm.probe.features.table_rows import Encoded, connectome_vectors, open_parcels
from fmrifm.probe.heads.logistic import check_random_splits, random_splits
from fmrifm.probe.results.results import (
    Results,
    Table,
    check_output,
    count_left_out,
    describe_probe,
    publish,
    record_probe,
)
from fmrifm.probe.scores.bootstrap import describe_errors
from fmrifm.probe.scores.permutation import compare_with_null, exchange_kind
from fmrifm.published.open_model import open_model
from fmrifm.runs.hold import hold

_SHARES = (0.6, 0.2, 0.2)  # of random splits: to train, to validate, to test
_HEADS = {"classification": "logistic", "regression": "ridge"}
_MAJORITY = Row("none", "majority", [], [], True)  # always the commonest class, or the mean


def run_cohort(config: ConfigDict, output: Path, files: ModelFiles | None = None) -> Results:
    """Asks a cohort its question, of the model, of what is simple, and of the confounds.

    Args:
      config: as in configs/cohort.py.
      output: directory for report.html, results.json, results.csv, provenance.json,
        predictions_*.npz, features/.
      files: the model, where it is not to be opened by its name in the config.

    Returns:
      What results.json holds.

    Raises:
      InputError: the config makes no sense, or the cohort cannot be split as it says.
    """
    resolve_cohort(config)
    if jax.process_count() > 1:
        raise InputError("A cohort is a job of one process: start it without --distributed.")
    check_output(output, config.target, config.unit, config.task)
    files = files or open_model(config.model)
    resolve_representations(config, files)
    cohort = open_cohort(config, files)
    study = _Study(config, files, cohort)
    with hold(output):
        record_probe(output, config, [source.store for source in cohort.sources])
        cache = Path(config.cache_dir) if config.cache_dir else output / "features"
        for row in _find_rows(config, files, cohort, cache):
            study.add(row)
        results = study.results()
        publish(output, results, study.predictions)
        write_report(output / "report.html", results, config, files, cohort)
    return results


def _find_rows(config: ConfigDict, files: ModelFiles, cohort: Cohort, cache: Path) -> Iterator[Row]:
    """Yields the rows, the model's first, in the order of the config."""
    head, chosen, splits = _HEADS[config.task], config.baselines, cohort.splits
    removal = make_removal(config.confounds.remove, cohort.confounds, config.confounds.site)
    encoded = Encoded(config, [head], files, splits, cache)
    for name in config.representations:
        yield Row(name, head, [encoded.take(name, head)[COHORT].x_SxD], removal, False)
    varying = [confound for confound in cohort.confounds if confound.varies]
    if "confounds" in chosen and varying:
        yield Row("confounds", head, [as_columns(varying)], [impute], True)
    if "connectome" in chosen:
        parcels = open_parcels(config.data.parcels, splits)
        name, x_SxD = connectome_vectors(files, splits, parcels)
        yield Row(name, head, [x_SxD[COHORT]], removal, True)
    if {"pca", "input"} & {*chosen}:
        x_SxD = encoded.take("input", head)[COHORT].x_SxD
        if "pca" in chosen:
            steps = [*removal, functools.partial(components, files.options.embed_dim)]
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
        yield _MAJORITY


class _Study(Table):
    """The table of a cohort: every row is fitted and scored on the folds of all repeats."""

    def __init__(self, config: ConfigDict, files: ModelFiles, cohort: Cohort):
        super().__init__(config, files, cohort.splits)
        self._cohort, settings = cohort, config.splits
        self._truth = cohort.truth
        site = cohort.confound(config.confounds.site)
        self._sites = None if site is None else site.values.astype(str)
        self._shows_sites = site is not None and site.is_shown
        if settings.scheme == "site" or config.confounds.remove == "combat":
            check_sites(self._sites, config.confounds.site)
        repeats = settings.repeats if settings.scheme == "kfold" else 1
        self._folds = [self._deal(config.seed + r)(cohort.truth.labels) for r in range(repeats)]
        if config.random_splits:
            check_random_splits(cohort.truth.labels, *self._sizes())
        self._majority = self._truth.measure(self._fit(_MAJORITY)[0].mean)

    def add(self, row: Row) -> None:
        """Fits a row and scores it."""
        repeats, strengths = self._fit(row)
        name, samples = self.config.splits.scheme, self._cohort.samples
        word = {"logistic": "C", "ridge": "alpha"}.get(row.head)
        columns = self.columns(name, samples, repeats.mean)
        columns["scores"] = repeats.values.transpose(2, 0, 1, 3)  # of each seed and repeat
        added = self.add_row(
            repeats,
            [columns],
            representation=row.name,
            head=row.head,
            baseline=row.baseline,
            hparams={word: strengths} if word else {},
            diverged=0,
            splits={name: self._score(row, repeats)},
        )
        if self.config.random_splits and row.head == "logistic" and not row.prepare:
            n, seed = self.config.random_splits, self.config.seed
            labels = self._truth.labels
            added["random_splits"] = random_splits(row.features[0], labels, *self._sizes(), n, seed)

    def results(self) -> Results:
        """What results.json holds."""
        config, cohort, truth = self.config, self._cohort, self._truth
        self.compare(truth.metric, lambda _, a, b: compare_rows(truth, a, b, config.seed))
        scheme = config.splits.scheme
        results = {
            **describe_probe(config, self.files.step, truth.classes),
            "metric": truth.metric,
            "splits": {
                "scheme": scheme,
                "n_folds": len(self._folds[0]),
                "repeats": len(self._folds),
                "n_groups": len(set(truth.subjects.tolist())),
                "people": _count_people(cohort),
            },
            "overlap": [],
            "left_out": {scheme: count_left_out(cohort.samples)},
            "who_was_left_out": cohort.left_out,
            "confounds": [describe(confound, cohort) for confound in cohort.confounds],
            "people": list_people(cohort, self.values[0]) if cohort.is_shown else [],
            "results": self.rows,
        }
        results["warnings"] = find_warnings(results)
        results["answer"] = answer(results)
        return results

    def _deal(self, seed: int):
        """A function that makes the folds of labels."""
        splits = self.config.splits
        return functools.partial(
            make_folds,
            splits.scheme,
            groups=self._truth.subjects,
            sites=self._sites,
            n_folds=splits.folds,
            seed=seed,
        )

    def _fit(self, row: Row) -> tuple[Repeats, dict[str, int]]:
        """Predictions of all seeds and repeats; how often each strength was chosen."""
        n_seeds, n_repeats = self.config.n_seeds, len(self._folds)
        if row.head == "majority":
            shape = (n_seeds, n_repeats, len(self._cohort.samples), 1)
            return Repeats(np.tile(self._truth.typical.astype(np.float32), shape), self._folds), {}
        jobs = [
            joblib.delayed(cross_fit)(
                row.features[n % len(row.features)], self._truth, folds, row.prepare,
                # Seeds of one repeat and those of another are of different folds.
                self.config.seed + 1000 * n,
            )
            for n in range(n_seeds)
            for folds in self._folds
        ]  # fmt: skip
        found = run_jobs(jobs, len(jobs), f"fit {row.name}")
        values, strengths = zip(*found, strict=True)
        counts = Counter(f"{c:g}" for some in strengths for c in some)
        shape = (n_seeds, n_repeats, *values[0].shape)
        return Repeats(np.stack(values).reshape(shape), self._folds), dict(counts)

    def _score(self, row: Row, repeats: Repeats) -> dict:
        config, truth, samples = self.config, self._truth, self._cohort.samples
        metrics = score_repeats(truth, repeats, config.seed)
        if truth.metric not in metrics:
            raise InputError(f"All values of {config.target} are the same: choose another target.")
        # The main one stands first.
        metrics = {truth.metric: metrics[truth.metric], **metrics}
        split = {
            **self.describe(samples),
            "metrics": metrics,
            "chance": self._chance(row, metrics[truth.metric]["value"]),
            "seeds": split_variance(truth, repeats, metrics),
        }
        if truth.classes is not None:
            split |= describe_errors(samples.labels, self.splits.name(repeats.mean), truth.classes)
        if self._shows_sites and len(set(self._sites.tolist())) > 1:
            split["sites"] = by_site(truth, repeats, self._sites)
        motion = self._cohort.confound(MOTION)
        if motion is not None and row.head != "majority":
            people = samples.subjects
            split["motion"] = with_motion(truth, repeats.mean, motion.values, people)
        if config.curve and row.head != "majority":
            split["curve"] = learning_curve(row, truth, self._folds, config.curve, config.seed)
        return split

    def _chance(self, row: Row, value: float) -> dict:
        """What is reached without looking: by the commonest class, a coin, this row by chance."""
        config, truth = self.config, self._truth
        told = {
            "metric": truth.metric,
            "majority": self._majority[truth.metric],
            "uniform": None if truth.classes is None else 1 / len(truth.classes),
            "kind": exchange_kind(truth.labels, truth.subjects),
            "permutations": 0,
            "p": None,
            "null_mean": None,
            "null_high": None,
        }
        if not config.permutations or row.head == "majority":
            return told
        deal = self._deal(config.seed)
        null = permuted_scores(row, truth, deal, config.permutations, config.seed)
        if len(null) < FEWEST_PERMUTATIONS:  # most cannot be dealt into folds
            return told
        return told | compare_with_null(value, null) | {"permutations": len(null)}

    def _sizes(self) -> tuple[int, int, int]:
        """How many samples of random splits train, validate and test."""
        n = len(self._cohort.samples)
        n_val, n_test = (int(share * n) for share in _SHARES[1:])
        return n - n_val - n_test, n_val, n_test


def _count_people(cohort: Cohort) -> dict[str, int]:
    """How many have each class; under "" all, of numbers."""
    subjects, labels = cohort.samples.subjects, cohort.samples.labels
    if (classes := cohort.truth.classes) is None:
        return {"": len(set(subjects.tolist()))}
    return {name: len(set(subjects[labels == name].tolist())) for name in classes.tolist()}
