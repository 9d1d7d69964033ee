"""A cohort's question, from its config to its answer.

Letters: S samples, K classes or columns of numbers, R repeats, N seeds.
"""

import functools
from collections import Counter
from pathlib import Path

import jax
import joblib
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.check_config import check_model
from fmrifm.probe.cohort.cohort import Cohort, describe, list_people, open_cohort
from fmrifm.probe.cohort.cohort_report import write_report
from fmrifm.probe.cohort.cohort_rows import (
    FEWEST_PERMUTATIONS,
    Row,
    check_cohort,
    find_rows,
    majority_row,
)
from fmrifm.probe.cohort.confound_removal import MOTION
from fmrifm.probe.cohort.cross_fit import Question, cross_fit, permuted_scores, settled
from fmrifm.probe.cohort.curve import learning_curve
from fmrifm.probe.cohort.folds import check_sites, make_folds
from fmrifm.probe.cohort.scores import (
    Repeats,
    Truth,
    by_site,
    compare_rows,
    score_repeats,
    split_variance,
    with_motion,
)
from fmrifm.probe.cohort.verdict import answer, find_warnings
from fmrifm.probe.heads.logistic import check_random_splits, random_splits
from fmrifm.probe.results.results import (
    Results,
    check_output,
    describe_probe,
    pack_predictions,
    publish,
    record_probe,
)
from fmrifm.probe.samples.compatibility import count_seen
from fmrifm.probe.scores.bootstrap import describe_errors
from fmrifm.probe.scores.permutation import compare_with_null, exchange_kind
from fmrifm.published.open_model import open_model

_SHARES = (0.6, 0.2, 0.2)  # of random splits: to train, to validate, to test


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
    check_cohort(config)
    if jax.process_count() > 1:
        raise InputError("A cohort is a job of one process: start it without --distributed.")
    check_output(output, config.target, config.unit, config.task)
    files = files or open_model(config.model)
    check_model(config, files)
    cohort = open_cohort(config, files)
    study = _Study(config, files, cohort)
    record_probe(output, config, [source.store for source in cohort.sources])
    cache = Path(config.cache_dir) if config.cache_dir else output / "features"
    for row in find_rows(config, files, cohort, cache):
        study.add(row)
    results = study.results()
    publish(output, results, study.predictions)
    write_report(output / "report.html", results, config, files, cohort)
    return results


class _Study:
    """The rows of the table and what stands behind them."""

    def __init__(self, config: ConfigDict, files: ModelFiles, cohort: Cohort):
        self._config, self._files, self._cohort = config, files, cohort
        classes = cohort.classes
        n_classes = 0 if classes is None else len(classes)
        inner = config.splits.inner
        self._question = Question(cohort.targets, cohort.groups, n_classes, inner)
        self._truth = Truth(cohort.targets, classes, cohort.groups)
        site = cohort.confound(config.confounds.site)
        self._sites = None if site is None else site.values.astype(str)
        self._shows_sites = site is not None and site.is_shown
        if config.splits.scheme == "site" or config.confounds.remove == "combat":
            check_sites(self._sites, config.confounds.site)
        repeats = config.splits.repeats if config.splits.scheme == "kfold" else 1
        self._folds = [self._deal(config.seed + r)(cohort.targets) for r in range(repeats)]
        if config.random_splits:
            check_random_splits(cohort.targets, *self._sizes())
        constant, _ = self._fit(majority_row(cohort))
        self._majority = self._truth.measure(constant.mean)
        self._rows: list[dict] = []
        self._repeats: list[Repeats] = []
        self.predictions: dict[str, bytes] = {}

    def add(self, row: Row) -> None:
        """Fits a row and scores it."""
        repeats, strengths = self._fit(row)
        self._repeats.append(repeats)
        name = self._config.splits.scheme
        split = self._score(row, repeats)
        word = {"logistic": "C", "ridge": "alpha"}.get(row.head)
        self._rows.append(
            {
                "dataset": self._cohort.datasets,
                "representation": row.name,
                "head": row.head,
                "baseline": row.baseline,
                "hparams": {word: strengths} if word else {},
                "diverged": 0,
                "splits": {name: split},
            }
        )
        if self._config.random_splits and row.head == "logistic" and not row.prepare:
            self._rows[-1]["random_splits"] = self._random_splits(row)
        self.predictions[f"predictions_{row.name}_{row.head}.npz"] = pack_predictions(
            [self._columns(repeats)]
        )

    def results(self) -> Results:
        """What results.json holds."""
        config, cohort, truth = self._config, self._cohort, self._truth
        self._compare()
        scheme, samples = config.splits.scheme, cohort.samples
        results = {
            **describe_probe(config, self._files.step, truth.classes),
            "metric": truth.metric,
            "splits": {
                "scheme": scheme,
                "n_folds": len(self._folds[0]),
                "repeats": len(self._folds),
                "n_groups": len(set(cohort.groups.tolist())),
                "people": _count_people(cohort),
            },
            "overlap": [],
            "left_out": {
                scheme: {
                    "unlabelled": samples.n_unlabelled,
                    "dropped_frames": samples.n_dropped_frames,
                }
            },
            "who_was_left_out": cohort.left_out,
            "confounds": [describe(confound, cohort) for confound in cohort.confounds],
            "people": list_people(cohort, truth, self._repeats[0]) if cohort.is_shown else [],
            "results": self._rows,
        }
        results["warnings"] = find_warnings(results)
        results["answer"] = answer(results)
        return results

    def _deal(self, seed: int):
        """A function that makes the folds of labels."""
        splits = self._config.splits
        return functools.partial(
            make_folds,
            splits.scheme,
            groups=self._cohort.groups,
            sites=self._sites,
            n_folds=splits.folds,
            seed=seed,
        )

    def _fit(self, row: Row) -> tuple[Repeats, dict[str, int]]:
        """Predictions of all seeds and repeats; how often each strength was chosen."""
        n_seeds, constant = self._config.n_seeds, row.head == "majority"
        jobs = [
            joblib.delayed(cross_fit)(
                row.features[n % len(row.features)], self._question, folds, row.prepare,
                # Seeds of one repeat and those of another are of different folds.
                self._config.seed + 1000 * n, constant,
            )
            for n in range(n_seeds)
            for folds in self._folds
        ]  # fmt: skip
        found = joblib.Parallel(1 if constant else joblib.cpu_count(), return_as="generator")(jobs)
        bar = tqdm(found, f"fit {row.name}", total=len(jobs), unit="fit", disable=constant)
        values, strengths = zip(*bar, strict=True)
        counts = Counter(f"{c:g}" for some in strengths for c in some)
        shape = (n_seeds, len(self._folds), *values[0].shape)
        return Repeats(np.stack(values).reshape(shape), self._folds), dict(counts)

    def _score(self, row: Row, repeats: Repeats) -> dict:
        config, truth, samples = self._config, self._truth, self._cohort.samples
        people = set(samples.subjects.tolist())
        metrics = score_repeats(truth, repeats, config.seed)
        if truth.metric not in metrics:
            raise InputError(f"All values of {config.target} are the same: choose another target.")
        # The main one stands first.
        metrics = {truth.metric: metrics[truth.metric], **metrics}
        split = {
            "n": len(samples),
            "n_subjects": len(people),
            "seen_in_pretraining": count_seen(self._files, people),
            "metrics": metrics,
            "chance": self._chance(row, metrics[truth.metric]["value"]),
            "seeds": split_variance(truth, repeats, metrics),
        }
        if truth.classes is not None:
            guesses = truth.classes[repeats.mean.argmax(1)]
            split |= describe_errors(samples.labels, guesses, truth.classes)
        if self._shows_sites and len(set(self._sites.tolist())) > 1:
            split["sites"] = by_site(truth, repeats, self._sites)
        motion = self._cohort.confound(MOTION)
        if motion is not None and row.head != "majority":
            split["motion"] = with_motion(truth, repeats.mean, motion.values)
        if config.curve and row.head != "majority":
            split["curve"] = learning_curve(
                row, self._question, truth, self._folds, config.curve, config.seed
            )
        return split

    def _chance(self, row: Row, value: float) -> dict:
        """What is reached without looking: by the commonest class, a coin, this row by chance."""
        config, truth = self._config, self._truth
        metric = truth.metric
        place = settled(
            np.unique(truth.labels, axis=0, return_inverse=True)[1].ravel(), truth.subjects
        )
        told = {
            "metric": metric,
            "majority": self._majority[metric],
            "uniform": None if truth.classes is None else 1 / len(truth.classes),
            "kind": exchange_kind(place, truth.subjects),
            "permutations": 0,
            "p": None,
            "null_mean": None,
            "null_high": None,
        }
        if not config.permutations or row.head == "majority":
            return told
        null = permuted_scores(
            row.features[0], self._question, truth, self._deal(config.seed), row.prepare,
            config.permutations, config.seed, row.name,
        )  # fmt: skip
        if len(null) < FEWEST_PERMUTATIONS:  # most cannot be dealt into folds
            return told
        return told | compare_with_null(value, null) | {"permutations": len(null)}

    def _sizes(self) -> tuple[int, int, int]:
        """How many samples of random splits train, validate and test."""
        n = len(self._cohort.samples)
        n_val, n_test = (int(share * n) for share in _SHARES[1:])
        return n - n_val - n_test, n_val, n_test

    def _random_splits(self, row: Row) -> dict:
        n, seed = self._config.random_splits, self._config.seed
        return random_splits(row.features[0], self._truth.labels, *self._sizes(), n, seed)

    def _columns(self, repeats: Repeats) -> dict[str, np.ndarray]:
        samples, classes = self._cohort.samples, self._cohort.classes
        values_SxK = repeats.mean
        return {
            "key": samples.keys,
            "start": samples.starts,
            "split": np.full(len(samples), self._config.splits.scheme),
            "subject": samples.subjects,
            "target": samples.labels,
            "prediction": values_SxK if classes is None else classes[values_SxK.argmax(1)],
            "score": values_SxK,
            "scores": repeats.values.transpose(2, 0, 1, 3),  # of each seed and repeat
        }

    def _compare(self) -> None:
        """Says of every row but the baselines by how much it beats each of them."""
        scheme, both = self._config.splits.scheme, list(zip(self._rows, self._repeats, strict=True))
        for row, repeats in both:
            if row["baseline"]:
                continue
            row["splits"][scheme]["versus"] = {
                f"{other['representation']}/{other['head']}": compare_rows(
                    self._truth, repeats, theirs, self._config.seed
                )
                for other, theirs in both
                if other["baseline"]
            }


def _count_people(cohort: Cohort) -> dict[str, int]:
    """How many have each class; under "" all, of numbers."""
    subjects, labels = cohort.samples.subjects, cohort.samples.labels
    if cohort.classes is None:
        return {"": len(set(subjects.tolist()))}
    return {name: len(set(subjects[labels == name].tolist())) for name in cohort.classes.tolist()}
