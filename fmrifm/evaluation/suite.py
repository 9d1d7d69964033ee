"""A frozen probe of labelled clips beside its baselines, and what comes of it on disk."""

import csv
import dataclasses
import io
import json
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.files import write_bytes
from data_tools.overlap import check_overlap
from fmrifm.evaluation.closed_form import fit_logistic, fit_majority
from fmrifm.evaluation.connectome import Parcels, connectomes
from fmrifm.evaluation.features import clip_features
from fmrifm.evaluation.statistics import score
from fmrifm.evaluation.targets import Samples, Target, event_samples, parse_target
from fmrifm.input.sources import Source, parse_named_sources, parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.published.open import open_model

REPRESENTATIONS = ("patch", "avg_patch", "cls")
HEADS = ("logistic",)
BASELINES = ("connectome", "untrained", "input", "majority")
UNITS = ("clip",)
# Names of splits of published datasets that are for choosing hyperparameters.
_VALIDATION = ("validation", "val")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Sources and labelled clips by the name of their split; "train" and "val" come first.

    Attributes:
      sources: the stores of each.
      samples: the clips of each.
      classes: (K,) str, all that labels can be.
    """

    sources: dict[str, list[Source]]
    samples: dict[str, Samples]
    classes: np.ndarray

    @property
    def tests(self) -> list[str]:
        """The names of the test splits."""
        return list(self.sources)[2:]

    def numbers(self, name: str) -> np.ndarray:
        """(C,) int: the places of a split's labels among the classes."""
        place = {label: k for k, label in enumerate(self.classes.tolist())}
        return np.array([place[label] for label in self.samples[name].labels.tolist()])


def probe(config: ConfigDict, output: Path) -> dict:
    """Reads a target from frozen features, and from what baselines see of the same clips.

    Args:
      config: as in configs/probe.py.
      output: directory for results.json, results.csv and predictions_*.npz.

    Returns:
      What results.json holds.

    Raises:
      InputError: the config makes no sense, splits share what they must not, or one has no sample.
    """
    _check_choices(config)
    target = parse_target(config.target)
    files = open_model(config.model)
    num_frames = files.options.num_frames
    if num_frames is None or files.options.in_chans != 1:
        raise InputError(f"{config.model} is a model of images, not of clips of brain activity.")
    if {*config.representations} == {"cls"} and not files.options.class_token:
        raise InputError(f"{config.model} has no class token: choose avg_patch instead of cls.")
    sources = _open_splits(config.data)
    samples = {
        name: event_samples(some, target, num_frames, config.data.hrf_delay)
        for name, some in sources.items()
    }
    parcels = Parcels(config.data.parcels) if config.data.parcels else None
    for name, some in sources.items():
        if parcels is not None:
            parcels.check(some, samples[name])
    check_overlap(sources, tuple(config.leak_keys))
    splits = Splits(sources, samples, _classes(samples, target))

    rows, predictions = [], {}
    for name, head, features, baseline in _features(config, files, splits, parcels):
        fitted, hparams = _fit(head, features, splits, config.seed)
        file = f"predictions_{name}_{head}.npz"
        row, predictions[file] = _evaluate(fitted, features, splits, files, config.seed)
        about = {"representation": name, "head": head, "baseline": baseline, "hparams": hparams}
        dataset = sources[splits.tests[0]][0].store.path.parent.name
        rows.append({"dataset": dataset, **about, "diverged": 0, "splits": row})
    results = {
        "version": 1,
        "model": str(config.model),
        "target": config.target,
        "unit": config.unit,
        "classes": splits.classes.tolist(),
        "results": rows,
    }
    _publish(output, results, predictions)
    return results


def describe_results(results: dict) -> str:
    """A table of accuracies, the model first, with 95 % intervals."""
    n_classes, rows = len(results["classes"]), results["results"]
    width = max(len(row["representation"]) for row in rows) + 2
    lines = [f"{results['target']}: {n_classes} classes, a random guess hits {1 / n_classes:.1%}"]
    for row in sorted(rows, key=lambda row: row["baseline"]):
        cells = []
        for name, split in row["splits"].items():
            accuracy = split["metrics"]["accuracy"]
            interval = f"{accuracy['low']:.1%} to {accuracy['high']:.1%}"
            cells.append(f"{name} {accuracy['value']:6.1%} ({interval}, n = {split['n']:,})")
        kind = "baseline" if row["baseline"] else "model"
        lines.append(
            f"  {kind:<10}{row['representation']:<{width}}{row['head']:<10}{', '.join(cells)}"
        )
    return "\n".join(lines)


def _features(config: ConfigDict, files: ModelFiles, splits: Splits, parcels: Parcels | None):
    """Yields name, head, features by split, and whether it is a baseline."""
    baselines = config.baselines
    trained = _encode(files, splits, {*config.representations, "input"})
    wanted = [kind for kind in config.representations if kind in trained["train"]]
    blank = None
    if "untrained" in baselines:
        blank = _encode(_untrained(files, config.seed), splits, wanted)
    for head in config.heads:
        for kind in wanted:
            yield kind, head, _pick(trained, kind), False
            if blank is not None:
                yield f"untrained_{kind}", head, _pick(blank, kind), True
        if "connectome" in baselines:
            found = {
                name: connectomes(some, splits.samples[name], files.options.num_frames, parcels)
                for name, some in splits.sources.items()
            }
            yield f"connectome_{parcels.name if parcels else 'patches'}", head, found, True
        if "input" in baselines:
            yield "input", head, _pick(trained, "input"), True
    if "majority" in baselines:
        yield "none", "majority", _pick(trained, "input"), True


def _encode(
    files: ModelFiles, splits: Splits, kinds: Collection[str]
) -> dict[str, dict[str, np.ndarray]]:
    return {
        name: clip_features(files, sources, splits.samples[name].clips, kinds)
        for name, sources in splits.sources.items()
    }


def _pick(features: dict[str, dict[str, np.ndarray]], kind: str) -> dict[str, np.ndarray]:
    return {name: some[kind] for name, some in features.items()}


def _fit(head: str, features: dict[str, np.ndarray], splits: Splits, seed: int):
    train, val = ((features[name], splits.numbers(name)) for name in ("train", "val"))
    if head == "majority":
        return fit_majority(train), {}
    return fit_logistic(train, val, seed)


def _evaluate(classifier, features, splits: Splits, files: ModelFiles, seed: int):
    """Results of every test split, and the bytes of the predictions."""
    row, predictions = {}, []
    every_class = np.arange(len(splits.classes))
    for name in splits.tests:
        samples = splits.samples[name]
        guesses = classifier.predict(features[name])
        scores = classifier.predict_proba(features[name])
        subjects = set(samples.subjects)
        row[name] = {
            "n": len(guesses),
            "n_subjects": len(subjects),
            "seen_in_pretraining": _seen(files, subjects),
            "metrics": score(splits.numbers(name), guesses, scores, every_class, seed),
        }
        predictions.append(
            {
                "key": samples.keys,
                "start": samples.clips.start,
                "split": np.full(len(guesses), name),
                "target": samples.labels,
                "prediction": splits.classes[guesses],
                "score": scores,
            }
        )
    buffer = io.BytesIO()
    np.savez(buffer, **{k: np.concatenate([p[k] for p in predictions]) for k in predictions[0]})
    return row, buffer.getvalue()


def _publish(output: Path, results: dict, predictions: dict[str, bytes]) -> None:
    """Writes all files; predictions of an earlier probe that this one has not made go last."""
    output.mkdir(parents=True, exist_ok=True)
    for name, content in predictions.items():
        write_bytes(output / name, content)
    write_bytes(output / "results.csv", _as_csv(results["results"]).encode())
    write_bytes(output / "results.json", json.dumps(results, indent=1).encode())
    for path in output.glob("predictions_*.npz"):
        if path.name not in predictions:
            path.unlink()


def _open_splits(data: ConfigDict) -> dict[str, list[Source]]:
    """The sources of "train", "val" and the test splits, as the config or a folder names them."""
    train, val, test = data.train, data.val, data.test
    if data.folder:
        folder = Path(data.folder)
        names = sorted(path.parent.name for path in folder.glob("*/store.json"))
        held = next((name for name in _VALIDATION if name in names), None)
        if "train" not in names or held is None:
            raise InputError(
                f"{folder} holds no stores train and validation: import a dataset there, or set "
                "data.train, data.val and data.test."
            )
        train, val = train or f"{folder}/train", val or f"{folder}/{held}"
        others = [name for name in names if name not in ("train", held)]
        test = test or ",".join(f"{name}={folder}/{name}" for name in others)
    if not (train and val and test):
        raise InputError("A probe needs data.train, data.val and data.test: set them to stores.")
    first = test.split("?")[0].split(",")[0]
    tests = parse_named_sources(test) if "=" in first else {"test": parse_sources(test)}
    if taken := {"train", "val"} & tests.keys():
        raise InputError(f"A test split is called '{taken.pop()}': give it another name.")
    return {"train": parse_sources(train), "val": parse_sources(val), **tests}


def _check_choices(config: ConfigDict) -> None:
    choices = {"representations": REPRESENTATIONS, "heads": HEADS, "baselines": BASELINES}
    asked = {name: tuple(config[name]) for name in choices} | {"unit": (config.unit,)}
    for name, values in asked.items():
        allowed = choices.get(name, UNITS)
        if unknown := [value for value in values if value not in allowed]:
            raise InputError(f"{name} has no '{unknown[0]}': choose of {', '.join(allowed)}.")
    fitted = config.representations or {"connectome", "input"} & {*config.baselines}
    if not (config.heads and fitted) and "majority" not in config.baselines:
        raise InputError("Nothing is to be fitted: give representations or baselines, and heads.")
    if not config.model:
        raise InputError("A probe needs a model: set model to a workdir, a directory or a hub id.")


def _classes(samples: dict[str, Samples], target: Target) -> np.ndarray:
    """The classes of the training set, in the target's order; others must not have more."""
    classes = target.order(samples["train"].labels.tolist())
    if len(classes) < 2:
        raise InputError(f"{target.text} has one class only in train: choose another target.")
    for name, some in samples.items():
        if strange := sorted(set(some.labels.tolist()) - set(classes)):
            raise InputError(
                f"{target.text} '{strange[0]}' is in {name} and not in train: filter it."
            )
    return np.array(classes)


def _seen(files: ModelFiles, subjects: set[str]) -> int | None:
    """How many of them; None for published weights, which do not tell whom they have seen."""
    if files.sources and not files.subjects_seen:
        return None
    return sum(files.has_seen(subject) for subject in subjects)


def _untrained(files: ModelFiles, seed: int) -> ModelFiles:
    """The same model with fresh weights."""
    model = MaskedAutoencoder(files.options)
    params = jax.jit(lambda key: nn.unbox(init_params(model, key)))(jax.random.key(seed))
    return files.with_params(params)


def _as_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["representation", "head", "baseline", "split", "n", "metric", "value", "std",
                     "low", "high"])  # fmt: skip
    for row in rows:
        for split, result in row["splits"].items():
            for metric, v in result["metrics"].items():
                names = (row["representation"], row["head"], row["baseline"], split, result["n"])
                writer.writerow([*names, metric, v["value"], v["std"], v["low"], v["high"]])
    return text.getvalue()
