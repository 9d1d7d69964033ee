"""What a probe leaves behind: results.json, results.csv, predictions, and a table to look at."""

import contextlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from data_tools.reports.text_tables import as_csv
from data_tools.safe_text import without_secrets
from data_tools.store.reader import Store
from fmrifm.input.data import store_digests
from fmrifm.model.files import ModelFiles
from fmrifm.probe.samples.compatibility import count_seen
from fmrifm.probe.samples.samples import Samples
from fmrifm.probe.samples.splits import Splits
from fmrifm.runs.config import config_dict
from fmrifm.runs.provenance import record_start
from fmrifm.runs.workdir import check_workdir

Results = dict[str, Any]
# What is told of a metric; those of subjects only where they repeat.
FIGURES = ("value", "std", "low", "high", "subject_std", "subject_low", "subject_high")
_FEW_SUBJECTS = 10


def describe_probe(config: ConfigDict, step: int | None, classes: np.ndarray | None) -> Results:
    """What results begin with: which model was asked what."""
    return {
        "version": 1,
        "model": without_secrets(str(config.model)),
        "step": step,
        "config": {k: v for k, v in config_dict(config).items() if k != "cache_dir"},
        "target": config.target,
        "unit": config.unit,
        "task": config.task,
        "classes": [] if classes is None else classes.tolist(),
    }


def check_output(output: Path, target: str, unit: str, task: str) -> None:
    """Raises InputError if results would replace those of another question, or cannot be there."""
    check_workdir(output)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged ones go
        old = json.loads((output / "results.json").read_text())
        asked = (old["target"], old["unit"], old["task"])
        if asked != (target, unit, task):
            raise InputError(
                f"{output} holds the results of another question ({', '.join(asked)}): choose "
                "another --workdir, or delete it."
            )


def record_probe(output: Path, config: ConfigDict, stores: Iterable[Store]) -> None:
    """Adds an entry to the provenance.json of the output, once all is checked."""
    record_start(output, config_dict(config), store_digests(stores))


def publish(output: Path, results: Results, predictions: dict[str, bytes]) -> None:
    """Writes all files; predictions of an earlier probe that this one has not made go last."""
    output.mkdir(parents=True, exist_ok=True)
    for name, content in predictions.items():
        write_bytes(output / name, content)
    write_bytes(output / "results.csv", _as_csv(results["results"]).encode())
    write_bytes(output / "results.json", json.dumps(results, indent=1).encode())
    for path in output.glob("predictions_*.npz"):
        if path.name not in predictions:
            path.unlink()


class Table:
    """The rows of the results of a probe or a cohort, and the predictions behind them."""

    def __init__(self, config: ConfigDict, files: ModelFiles, splits: Splits):
        self.config, self.files, self.splits = config, files, splits
        self.rows: list[dict] = []
        self.values: list[Any] = []  # predictions of each row
        self.predictions: dict[str, bytes] = {}

    def add_row(self, values: Any, columns: list[dict[str, np.ndarray]], **row) -> dict:
        """Adds a row of the results.

        Args:
          values: what it predicts.
          columns: of its predictions, split by split.
          row: its fields in results.json, in their order.
        """
        row = {"dataset": self.splits.datasets, **row}
        self.rows.append(row)
        self.values.append(values)
        buffer, names = io.BytesIO(), columns[0]
        np.savez(
            buffer, **{name: np.concatenate([some[name] for some in columns]) for name in names}
        )
        name = f"predictions_{row['representation']}_{row['head']}.npz"
        self.predictions[name] = buffer.getvalue()
        return row

    def columns(self, split: str, samples: Samples, values_SxK: np.ndarray) -> dict:
        """The columns of the predictions of a split."""
        return {
            "key": samples.keys,
            "start": samples.starts,
            "split": np.full(len(samples), split),
            "subject": samples.subjects,
            "target": samples.labels,
            "prediction": self.splits.name(values_SxK),
            "score": values_SxK,
        }

    def describe(self, samples: Samples) -> dict[str, int | None]:
        """How many samples and people there are, and how many people the model has seen."""
        people = set(samples.subjects.tolist())
        seen = count_seen(self.files, people)
        return {"n": len(samples), "n_subjects": len(people), "seen_in_pretraining": seen}

    def compare(self, metric: str, difference: Callable[[str, Any, Any], dict]) -> None:
        """Adds to every row of the model its difference to each baseline, as "versus".

        Args:
          metric: splits without it are left out.
          difference: of a split and the predictions of two rows.
        """
        both = list(zip(self.rows, self.values, strict=True))
        rivals = [(f"{r['representation']}/{r['head']}", v) for r, v in both if r["baseline"]]
        for row, values in both:
            for name, split in row["splits"].items():
                if not row["baseline"] and metric in split["metrics"]:
                    split["versus"] = {k: difference(name, values, v) for k, v in rivals}


def count_left_out(samples: Samples) -> dict[str, int]:
    """Samples without a label, and frames that are in no clip."""
    return {"unlabelled": samples.n_unlabelled, "dropped_frames": samples.n_dropped_frames}


def main_metric(results: Results) -> str:
    """What the table shows and comparisons are made in."""
    if "metric" in results:
        return results["metric"]
    if results["classes"]:
        return "accuracy"
    first = next(iter(results["results"][0]["splits"].values()))
    return "cosine" if "cosine" in first["metrics"] else "r2"


def describe_results(results: Results) -> str:
    """A table of scores, the model first, with 95 % intervals and p against chance.

    Intervals are over subjects where subjects repeat.
    """
    classes, rows, metric = results["classes"], results["results"], main_metric(results)
    width = max(len(row["representation"]) for row in rows) + 2
    chance = (
        f"{len(classes)} classes, a random guess hits {1 / len(classes):.1%}" if classes else metric
    )
    lines = [
        f"{results['target']}: {chance}. In brackets the 95 % interval, over subjects where they "
        "repeat; p of a permutation test against chance."
    ]
    for row in sorted(rows, key=lambda row: row["baseline"]):
        cells = ", ".join(
            f"{name} {_cell(split, metric, bool(classes))}" for name, split in row["splits"].items()
        )
        kind = "baseline" if row["baseline"] else "model"
        lines.append(f"  {kind:<10}{row['representation']:<{width}}{row['head']:<10}{cells}")
        if random := row.get("random_splits"):
            mean, std = random["accuracy"]["mean"], random["accuracy"]["std"]
            lines.append(
                f"  {'':<10}{'':<{width}}{'':<10}{mean:.1%} +- {std:.1%} on {random['n']} random "
                "splits by sample, which may share subjects"
            )
    answer = [results["answer"]["text"]] if "answer" in results else []
    return "\n".join(lines + _notes(results) + answer)


def _cell(split: dict, metric: str, is_share: bool) -> str:
    figures, form = split["metrics"].get(metric), ".1%" if is_share else ".3f"
    n = f"n = {split['n']:,}"
    if split["n_subjects"] != split["n"]:
        n += f" of {split['n_subjects']:,} subjects"
    if figures is None:
        return f"has no {metric}, as its targets are all the same ({n})"
    ends = [figures.get(f"subject_{x}", figures[x]) for x in ("low", "high")]
    interval = "" if None in ends else f"{ends[0]:{form}} to {ends[1]:{form}}, "
    p = split["chance"]["p"]
    p = "" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.2g}"
    return f"{figures['value']:{form}} ({interval}{n}{p})"


def _notes(results: Results) -> list[str]:
    """What has to be known of the table."""
    notes = []
    for name, split in results["results"][0]["splits"].items():
        if split["n_subjects"] < _FEW_SUBJECTS:
            notes.append(f"{name} has few subjects: its intervals, if any, say little of others")
    for row in results["results"]:
        if not row["hparams"].get("converged", True):
            notes.append(f"{row['representation']} {row['head']} had not converged at its end")
        if row["diverged"]:
            notes.append(f"{row['representation']} {row['head']}: {row['diverged']} heads diverged")
    for name, left in results["left_out"].items():
        told = []
        if left["unlabelled"]:
            told.append(f"{left['unlabelled']:,} without a label left out")
        if left["dropped_frames"]:
            told.append(f"{left['dropped_frames']:,} frames at the ends of runs unused")
        if told:
            notes.append(f"{name}: {', '.join(told)}")
    for o in results["overlap"]:
        if o["shared"]:
            notes.append(f"{o['a']} and {o['b']} share {o['shared']:,} of '{o['field']}'")
    return [f"  {note}" for note in notes]


def _as_csv(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        about = {name: row[name] for name in ("representation", "head", "baseline")}
        for split, result in row["splits"].items():
            about |= {"split": split, "n": result["n"]}
            lines += [about | {"metric": name} | v for name, v in result["metrics"].items()]
        random, about = row.get("random_splits", {}), about | {"split": "random_splits", "n": ""}
        for metric in ("accuracy", "balanced_accuracy") if random else ():
            value, std = random[metric]["mean"], random[metric]["std"]
            lines.append(about | {"metric": metric, "value": value, "std": std})
    names = ("representation", "head", "baseline", "split", "n", "metric", *FIGURES)
    return as_csv([names, *([line.get(name) for name in names] for line in lines)])
