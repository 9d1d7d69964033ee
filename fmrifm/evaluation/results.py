"""What a probe leaves behind: results.json, results.csv, predictions, and a table to look at."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files import write_bytes

Results = dict[str, Any]
# What is told of a metric; those of subjects only where they repeat.
FIGURES = ("value", "std", "low", "high", "subject_std", "subject_low", "subject_high")


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


def pack_predictions(parts: list[dict[str, np.ndarray]]) -> bytes:
    """The bytes of an .npz of the columns of several splits, one after another."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    return buffer.getvalue()


def main_metric(results: Results) -> str:
    """What the table shows and comparisons are made in."""
    if results["classes"]:
        return "accuracy"
    first = next(iter(results["results"][0]["splits"].values()))
    return "cosine" if "cosine" in first["metrics"] else "r2"


def describe_results(results: Results) -> str:
    """A table of scores, the model first, with 95 % intervals and p against chance.

    Intervals are over subjects where subjects repeat.
    """
    classes, rows, metric = results["classes"], results["results"], main_metric(results)
    form = "6.1%" if classes else "6.3f"
    width = max(len(row["representation"]) for row in rows) + 2
    chance = (
        f"{len(classes)} classes, a random guess hits {1 / len(classes):.1%}" if classes else ""
    )
    lines = [f"{results['target']}: {chance or metric}"]
    for row in sorted(rows, key=lambda row: row["baseline"]):
        cells = []
        for name, split in row["splits"].items():
            figures = split["metrics"].get(metric)
            if figures is None:
                cells.append(f"{name} has no {metric}")
                continue
            low, high = (figures.get(f"subject_{x}", figures[x]) for x in ("low", "high"))
            p = split["chance"]["p"]
            cells.append(
                f"{name} {figures['value']:{form}} ({low:{form[1:]}} to {high:{form[1:]}}, "
                f"n = {split['n']:,}, p = {p:.3g})"
            )
        kind = "baseline" if row["baseline"] else "model"
        lines.append(
            f"  {kind:<10}{row['representation']:<{width}}{row['head']:<10}{', '.join(cells)}"
        )
    for split, left in results["left_out"].items():
        if any(left.values()):
            lines.append(
                f"  {split}: {left['unlabelled']:,} without a label left out, "
                f"{left['dropped_frames']:,} frames at the ends of runs unused"
            )
    shared = [o for o in results["overlap"] if o["shared"]]
    lines += [f"  {o['a']} and {o['b']} share {o['shared']:,} of '{o['field']}'" for o in shared]
    return "\n".join(lines)


def _as_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("representation", "head", "baseline", "split", "n", "metric")
    writer.writerow([*names, *FIGURES])
    for row in rows:
        for split, result in row["splits"].items():
            for metric, v in result["metrics"].items():
                about = (row["representation"], row["head"], row["baseline"], split, result["n"])
                writer.writerow([*about, metric, *(v.get(name) for name in FIGURES)])
    return text.getvalue()
