"""A probe, from its config to its results: what representation decodes what, how sure, and
whether it beats what is simple."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fmrifm.model.files import ModelFiles
from fmrifm.probe.check_config import (
    FINETUNE,
    grid_settings,
    resolve_probe,
    resolve_representations,
)
from fmrifm.probe.features.representations import standardise
from fmrifm.probe.features.table_rows import GRID, Entry, find_entries, open_parcels
from fmrifm.probe.heads.finetune import finetune
from fmrifm.probe.heads.grid import fit_grid
from fmrifm.probe.heads.knn import fit_knn
from fmrifm.probe.heads.logistic import (
    check_random_splits,
    fit_logistic,
    random_splits,
    typical_values,
)
from fmrifm.probe.heads.ridge import fit_ridge
from fmrifm.probe.heads.settings import FinetuneSettings, LogisticSettings
from fmrifm.probe.results.results import (
    Results,
    Table,
    check_output,
    count_left_out,
    describe_probe,
    main_metric,
    publish,
    record_probe,
)
from fmrifm.probe.samples.compatibility import check_compatible, clip_length
from fmrifm.probe.samples.splits import Splits, open_splits
from fmrifm.probe.scores.bootstrap import compare_paired, describe_errors, score
from fmrifm.probe.scores.metrics import regression
from fmrifm.probe.scores.permutation import permutation_test
from fmrifm.published.open_model import open_model
from fmrifm.runs.hold import hold

# Heads that a seed changes: weights and batches, or the splits that C is chosen by.
_SEEDED = (*GRID, "logistic")


def probe(
    config: ConfigDict, output: Path, files: ModelFiles | None = None, records: bool = True
) -> Results:
    """Reads a target from frozen features, and from what baselines see of the same samples.

    Args:
      config: as in configs/probe.py.
      output: directory for results.json, results.csv, provenance.json, predictions_*.npz and
        features/.
      files: the model, where it is not to be opened by its name in the config.
      records: whether provenance.json gets an entry; that of a training run speaks for its probes.

    Returns:
      What results.json holds; without rows on all processes but the first.

    Raises:
      InputError: the config makes no sense, splits share what they must not, or one has no sample.
    """
    resolve_probe(config)
    check_output(output, config.target, config.unit, config.task)
    files = files or open_model(config.model)
    splits = open_probe(config, files)
    parcels = open_parcels(config.data.parcels, splits)
    cache = Path(config.cache_dir) if config.cache_dir else output / "features"
    table, first = _Table(config, files, splits), jax.process_index() == 0
    with hold(output):
        if first and records:
            stores = [source.store for source in splits.all_sources]
            record_probe(output, config, stores + (parcels.stores if parcels else []))
        for entry in find_entries(config, files, splits, parcels, cache):
            if first:  # all processes encode, one fits
                table.add_entry(entry)
        if first and FINETUNE in config.heads:
            table.add_finetuned()
        results = table.results()
        if first:
            publish(output, results, table.predictions)
    return results


def open_probe(config: ConfigDict, files: ModelFiles) -> Splits:
    """The splits of a probe, once all is checked that can be before any work.

    Args:
      config: of `probe`; representations that the model lacks are taken out of it.
      files: the model; it needs no weights.

    Raises:
      InputError: as `probe`.
    """
    resolve_probe(config)
    num_frames = clip_length(files)
    resolve_representations(config, files)
    splits = open_splits(config, num_frames)
    for warning in check_compatible(files, splits.all_sources, config.data.strict):
        print(warning)
    if config.random_splits:
        pool = [splits.samples[name].labels for name in _pool(splits)]
        check_random_splits(np.concatenate(pool), *map(len, pool))
    return splits


class _Table(Table):
    """The table of a probe: heads fitted on "train", chosen on "val", scored on the others."""

    def add_entry(self, entry: Entry) -> None:
        """Fits a head and scores it."""
        if entry.head == "linear" and self.config.grid.standardize:
            entry = dataclasses.replace(entry, features=standardise(entry.features))
        values, hparams, diverged = self._fit(entry, self.config.seed)
        row = self._add(entry.name, entry.head, entry.baseline, hparams, values, diverged)
        if entry.head == "logistic" and self.config.random_splits:
            row["random_splits"] = self._random_splits(entry)
        if self.config.n_seeds > 1 and entry.head in _SEEDED:
            self._add_seeds(row, entry, values)

    def add_finetuned(self) -> None:
        """Trains the encoder with a head and scores it."""
        splits, settings = self.splits, FinetuneSettings(**self.config.finetune)
        train, val = (
            (splits.sources[name], splits.samples[name], splits.targets(name))
            for name in ("train", "val")
        )
        tuned = finetune(self.files, train, val, settings=settings, seed=self.config.seed)
        values = {
            name: tuned.predict(splits.sources[name], splits.samples[name]) for name in splits.tests
        }
        hparams = {"epoch": int(tuned.best_epoch) + 1, **dataclasses.asdict(settings)}
        name = f"{settings.mode}_{settings.representation}_{settings.head}"
        self._add(name, FINETUNE, False, hparams, values)

    def results(self) -> Results:
        """What results.json holds."""
        splits = self.splits
        results = {
            **describe_probe(self.config, self.files.step, splits.classes),
            "overlap": [
                {"a": o.a, "b": o.b, "field": o.field, "shared": o.shared} for o in splits.overlaps
            ],
            "left_out": {name: count_left_out(some) for name, some in splits.samples.items()},
            "results": self.rows,
        }
        if self.rows:
            metric = main_metric(results)
            self.compare(metric, functools.partial(self._difference, metric))
        return results

    def _add_seeds(self, row: dict, entry: Entry, values: dict[str, np.ndarray]) -> None:
        """Says how far the main metric depends on the seed of the head, and on who is tested."""
        seeds = range(self.config.seed + 1, self.config.seed + self.config.n_seeds)
        every = [values, *(self._fit(entry, seed)[0] for seed in seeds)]
        for test, split in row["splits"].items():
            metric = next(iter(split["metrics"]))
            scores = [self._score(test, some[test])["metrics"][metric]["value"] for some in every]
            told = split["metrics"][metric]
            split["seeds"] = {
                "n": len(scores),
                "metric": metric,
                "mean": float(np.mean(scores)),
                "seed_std": float(np.std(scores, ddof=1)),
                "sampling_std": told.get("subject_std", told["std"]),
            }

    def _fit(self, entry: Entry, seed: int) -> tuple[dict[str, np.ndarray], dict, int]:
        """Predictions of the test splits, hyperparameters, how many heads of a grid diverged."""
        config, splits, features, diverged = self.config, self.splits, entry.features, 0
        if entry.head not in GRID:
            features = {name: some.x_SxD for name, some in features.items()}
        train, val = ((features[name], splits.targets(name)) for name in ("train", "val"))
        if entry.head == "majority":
            typical_K, tests = typical_values(train[1]), splits.tests
            return {name: np.tile(typical_K, (len(features[name]), 1)) for name in tests}, {}, 0
        if entry.head == "knn":
            fitted, hparams = fit_knn(train, val, config.task)
        elif entry.head == "ridge":
            fitted, hparams = fit_ridge(train, val)
        elif entry.head in GRID:
            settings = grid_settings(config)
            settings = dataclasses.replace(settings, inner=settings.inner or entry.inner)
            fitted = fit_grid(entry.head, train, val, splits.n_out, settings, seed)
            hparams, diverged = fitted.hparams, fitted.diverged
        else:
            settings = LogisticSettings(**config.logistic)
            fitted, hparams = fit_logistic(train, val, seed % 2**32, settings)
        values = {name: fitted.predict_values(features[name]) for name in splits.tests}
        return values, hparams, diverged

    def _random_splits(self, entry: Entry) -> dict:
        names, config = _pool(self.splits), self.config
        x_SxD = np.concatenate([entry.features[name].x_SxD for name in names])
        labels = [self.splits.targets(name) for name in names]
        settings = LogisticSettings(**config.logistic)
        sizes, labels = map(len, labels), np.concatenate(labels)
        n, seed = config.random_splits, config.seed
        return random_splits(x_SxD, labels, *sizes, n, seed, settings)

    def _add(self, name, head, baseline, hparams, values, diverged=0) -> dict:
        samples = self.splits.samples
        return self.add_row(
            values,
            [self.columns(test, samples[test], x) for test, x in values.items()],
            representation=name,
            head=head,
            baseline=baseline,
            hparams=hparams,
            diverged=diverged,
            splits={test: self._score(test, x) for test, x in values.items()},
        )

    def _score(self, test: str, values: np.ndarray) -> dict:
        samples, classes = self.splits.samples[test], self.splits.classes
        subjects, seed, about = samples.subjects, self.config.seed, self.describe(samples)
        if classes is None:
            metrics = score(samples.labels, values, seed=seed, subjects=subjects)
            metric = "cosine" if "cosine" in metrics else "r2"  # the main one stands first
            if metric not in metrics:  # a target that does not vary has neither
                return about | {"metrics": metrics, "chance": None}
            chance = permutation_test(samples.labels, values, None, subjects, metric, seed=seed)
            typical = np.broadcast_to(self.splits.samples["train"].labels.mean(0), values.shape)
            once = np.ones((len(samples), 1), np.int32)
            reached = regression(samples.labels, typical, (metric,))(once)[metric][0]
            chance |= {"majority": float(reached), "uniform": None}
            return about | {"metrics": {metric: metrics[metric], **metrics}, "chance": chance}
        guesses = self.splits.name(values)
        chance = permutation_test(samples.labels, guesses, classes, subjects, seed=seed)
        commonest = classes[np.bincount(self.splits.targets("train")).argmax()]
        recalled = float((samples.labels == commonest).any() / len(np.unique(samples.labels)))
        return about | {
            "metrics": score(samples.labels, guesses, values, classes, seed, subjects),
            "chance": chance | {"majority": recalled, "uniform": 1 / len(classes)},
            **describe_errors(samples.labels, guesses, classes),
        }

    def _difference(self, metric: str, test: str, values: dict, theirs: dict) -> dict:
        samples, name = self.splits.samples[test], self.splits.name
        a, b = name(values[test]), name(theirs[test])
        return compare_paired(samples.labels, a, b, samples.subjects, metric, self.config.seed)


def _pool(splits: Splits) -> list[str]:
    """The splits that random ones are drawn from."""
    return ["train", "val", splits.tests[0]]
