"""A frozen probe of the events of three stores, and what comes of it on disk."""

import csv
import io
import json
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from data_tools.errors import InputError
from data_tools.files import write_bytes
from fmrifm.evaluation.closed_form import fit_logistic, fit_majority
from fmrifm.evaluation.features import clip_features
from fmrifm.evaluation.statistics import score
from fmrifm.evaluation.targets import Samples, event_samples
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.published.open import open_model

SPLITS = ("train", "val", "test")


def probe_events(model: str | Path, splits: dict[str, str], field: str, output: Path) -> dict:
    """Reads an event's field from frozen features by logistic regression.

    The same is done with an untrained encoder, with the input itself and with the commonest class.

    Args:
      model: what `fmrifm.from_pretrained` takes.
      splits: train, val and test: sources as in `data.train`.
      field: of the events, such as "trial_type".
      output: directory for results.json, results.csv and predictions_*.npz.

    Returns:
      What results.json holds.

    Raises:
      InputError: a subject is in two splits, or a split has no sample.
    """
    files = open_model(model)
    sources = {name: parse_sources(splits[name]) for name in SPLITS}
    num_frames = files.options.num_frames
    if num_frames is None or files.options.in_chans != 1:
        raise InputError(f"{model} is a model of images, not of clips of brain activity.")
    samples = {name: event_samples(sources[name], field, num_frames) for name in SPLITS}
    _refuse_shared_subjects(samples)
    classes = np.unique(samples["train"].labels)
    for name in ("val", "test"):
        strange = sorted(set(samples[name].labels) - set(classes))
        if strange:
            raise InputError(f"{field} '{strange[0]}' is in {name} and not in train: filter it.")
    trained = {n: clip_features(files, sources[n], samples[n].clips) for n in SPLITS}
    blank = {n: clip_features(_untrained(files), sources[n], samples[n].clips) for n in SPLITS}

    output.mkdir(parents=True, exist_ok=True)
    rows = []

    def add(name: str, kind: str, head: str, features: dict, baseline: bool) -> None:
        train, val, test = ((features[n][kind], samples[n].labels) for n in SPLITS)
        if head == "majority":
            classifier, hparams = fit_majority(train), {}
        else:
            classifier, hparams = fit_logistic(train, val)
        predictions, scores = classifier.predict(test[0]), classifier.predict_proba(test[0])
        test_samples = samples["test"]
        rows.append(
            {
                "dataset": sources["test"][0].store.path.parent.name,
                "representation": name,
                "head": head,
                "baseline": baseline,
                "hparams": hparams,
                "diverged": 0,
                "splits": {
                    "test": {
                        "n": len(test[1]),
                        "n_subjects": len(set(test_samples.subjects)),
                        "seen_in_pretraining": _seen(files, set(test_samples.subjects)),
                        "metrics": score(test[1], predictions, scores, classes),
                    }
                },
            }
        )
        _save_predictions(
            output / f"predictions_{name}_{head}.npz", test_samples, predictions, scores
        )

    for kind in ("patch", "avg_patch", "cls"):
        if kind in trained["train"]:
            add(kind, kind, "logistic", trained, False)
            add(f"untrained_{kind}", kind, "logistic", blank, True)
    add("input", "input", "logistic", trained, True)
    add("none", "input", "majority", trained, True)
    results = {
        "version": 1,
        "model": str(model),
        "target": f"event:{field}",
        "unit": "clip",
        "classes": classes.tolist(),
        "results": rows,
    }
    write_bytes(output / "results.json", json.dumps(results, indent=1).encode())
    write_bytes(output / "results.csv", _as_csv(rows).encode())
    return results


def _seen(files: ModelFiles, subjects: set[str]) -> int | None:
    """How many of them; None for published weights, which do not tell whom they have seen."""
    if files.sources and not files.subjects_seen:
        return None
    return sum(files.has_seen(subject) for subject in subjects)


def _untrained(files: ModelFiles) -> ModelFiles:
    """The same model with fresh weights."""
    model = MaskedAutoencoder(files.options)
    params = jax.jit(lambda key: nn.unbox(init_params(model, key)))(jax.random.key(0))
    return files.with_params(params)


def _refuse_shared_subjects(samples: dict[str, Samples]) -> None:
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(set(samples[a].subjects) & set(samples[b].subjects))
        if shared:
            raise InputError(
                f"Subject {shared[0]} is in {a} and {b} ({len(shared)} such): split by subject."
            )


def _save_predictions(path: Path, samples: Samples, predictions, scores) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        key=samples.keys,
        start=samples.clips.start,
        split=np.full(len(predictions), "test"),
        target=samples.labels,
        prediction=predictions,
        score=scores,
    )
    write_bytes(path, buffer.getvalue())


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
