"""Directories of finished runs, as pretraining and probes leave them."""

import json
from pathlib import Path
from typing import Any


def nest(fields: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *parts, last = name.split(".")
        place = tree
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def write_run(path: Path, scores: dict[str, float], **fields: Any) -> Path:
    """A pretraining run of ten steps; `__` in names of fields stands for a dot."""
    config = {"total_steps": 10, "keep_best": None, "seed": 0} | {
        name.replace("__", "."): value for name, value in fields.items()
    }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(nest(config)))
    lines = [
        {"step": 5, "train/loss": 0.5, **{k: v + 0.1 for k, v in scores.items()}},
        {"step": 10, "eval/a/loss_of_zero": 1.0, **scores},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_probe(path: Path, accuracy: float, config: dict[str, Any] | None = None) -> Path:
    """A probe with one result, beside a baseline that is no score of the model."""
    path.mkdir(parents=True)
    rows = [
        {
            "representation": name,
            "head": "logistic",
            "baseline": name == "pca",
            "splits": {"test": {"metrics": {"accuracy": {"value": accuracy}}}},
        }
        for name in ("cls", "pca")
    ]
    (path / "results.json").write_text(json.dumps({"config": config or {}, "results": rows}))
    return path
