"""Pictures and numbers of the quickstart's report."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from fmrifm.trainer.figures import save_figure
from fmrifm.trainer.metrics import read_metrics


def draw_curves(path: Path, workdir: Path, title: str) -> None:
    """Training and evaluation loss of a run, beside the loss of predicting zero."""
    lines = read_metrics(workdir / "metrics.jsonl")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    train = [(x["step"], x["train/loss"]) for x in lines if "train/loss" in x]
    axis.plot(*zip(*train, strict=True), color="0.7", label="training batch")
    names = {k.split("/")[1] for x in lines for k in x if k.startswith("eval/")}
    for name in sorted(names):
        scored = [x for x in lines if f"eval/{name}/loss" in x]
        steps = [x["step"] for x in scored]
        loss = [x[f"eval/{name}/loss"] for x in scored]
        zero = [x[f"eval/{name}/loss_of_zero"] for x in scored]
        axis.plot(steps, loss, "o-", color="#b2182b", label=f"{name}: masked loss")
        axis.plot(steps, zero, "--", color="#2166ac", label=f"{name}: predicting zero")
    axis.set(xlabel="step", ylabel="loss", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_accuracy(path: Path, results: dict) -> None:
    """Balanced accuracy of every representation with its interval, beside chance."""
    rows = results["results"][::-1]
    figure = Figure(figsize=(7, 0.45 * len(rows) + 1), layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(rows):
        v = row["splits"]["test"]["metrics"]["balanced_accuracy"]
        color = "0.65" if row["baseline"] else "#b2182b"
        axis.plot([v["low"], v["high"]], [place, place], color=color, lw=2)
        axis.plot(v["value"], place, "o", color=color)
    axis.axvline(1 / len(results["classes"]), ls="--", color="#2166ac", lw=1)
    axis.set_yticks(range(len(rows)), [f"{r['representation']} ({r['head']})" for r in rows])
    axis.set(xlim=(0, 1.02), xlabel="balanced accuracy on held-out subjects (dashed: chance)")
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def last_evaluation(workdir: Path, name: str) -> tuple[float, float]:
    """The last loss of an evaluation set, and that of predicting zero."""
    lines = [x for x in read_metrics(workdir / "metrics.jsonl") if f"eval/{name}/loss" in x]
    return lines[-1][f"eval/{name}/loss"], lines[-1][f"eval/{name}/loss_of_zero"]


def read_results(path: Path) -> dict:
    return json.loads(path.read_text())
