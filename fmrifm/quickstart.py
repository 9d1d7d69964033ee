"""Runs the whole main job in minutes: a real scan, a store, a trained model, a probe.

    python -m fmrifm.quickstart --workdir=DIR

Converts a real resting-state run, pretrains a small masked autoencoder on its first part and scores
it on the rest; does the same with simulated subjects who do a task, and reads the task from frozen
features on subjects that the model has not seen. Every step is a command that you can type
yourself; DIR/report.html lists them beside what came out. Run again, it goes on where it stopped.
"""

import importlib.util
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from data_tools.errors import InputError, kind_errors
from data_tools.files.atomic import write_bytes
from data_tools.reports.figures import new_figure, save_figure
from data_tools.reports.page import render_page
from fmrifm.command_line import WORKDIR, run
from fmrifm.runs.metrics_writer import read_metrics


def draw_curves(path: Path, workdir: Path, title: str) -> None:
    """Training and evaluation loss of a run, beside the loss of predicting zero."""
    lines = read_metrics(workdir / "metrics.jsonl")
    figure = new_figure(7, 3.2)
    axis = figure.subplots()
    train = [(x["step"], x["train/loss"]) for x in lines if "train/loss" in x]
    axis.plot(*zip(*train, strict=True), color="0.7", label="training batch")
    names = {k.split("/")[1] for x in lines for k in x if k.startswith("eval/")}
    for name in sorted(names):
        scored = [x for x in lines if f"eval/{name}/loss" in x]
        loss = [(x["step"], x[f"eval/{name}/loss"]) for x in scored]
        axis.plot(*zip(*loss, strict=True), "o-", color="#b2182b", label=f"{name}: masked loss")
        # The same at every step, so that they also show beside a single evaluation.
        _, zero, linear = last_evaluation(workdir, name)
        axis.axhline(zero, ls="--", color="#2166ac", label=f"{name}: predicting zero")
        axis.axhline(linear, ls=":", color="#4d4d4d", label=f"{name}: linear predictor")
    axis.set(xlabel="step", ylabel="loss", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def draw_accuracy(path: Path, results: dict) -> None:
    """Balanced accuracy of every representation with its interval, beside chance."""
    rows = results["results"][::-1]
    figure = new_figure(7, 0.45 * len(rows) + 1)
    axis = figure.subplots()
    for place, row in enumerate(rows):
        v = row["splits"]["test"]["metrics"]["balanced_accuracy"]
        color = "0.65" if row["baseline"] else "#b2182b"
        interval = [v.get(f"subject_{end}", v[end]) for end in ("low", "high")]  # as in the tables
        axis.plot(interval, [place, place], color=color, lw=2)
        axis.plot(v["value"], place, "o", color=color)
    axis.axvline(1 / len(results["classes"]), ls="--", color="#2166ac", lw=1)
    axis.set_yticks(range(len(rows)), [f"{r['representation']} ({r['head']})" for r in rows])
    axis.set(xlim=(0, 1.02), xlabel="balanced accuracy on held-out subjects (dashed: chance)")
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_maps(path: Path, model: Path) -> None:
    """The first network maps of a model on the cortex, each in its own largest values."""
    from fmrifm.model.files import load_model
    from fmrifm.trainer.evaluate import RANGE, show_frame

    files = load_model(model)
    maps_KxNxP = files.geometry.to_patches(files.params["network_maps"]["maps"][:SHOWN_MAPS])
    height, width = files.geometry.image_mask.shape
    figure = new_figure(13, 13 * SHOWN_MAPS / 16 * height / width)
    for place, (axis, map_NxP) in enumerate(
        zip(figure.subplots(SHOWN_MAPS // 4, 4).flat, maps_KxNxP, strict=True)
    ):
        show_frame(axis, files.geometry, map_NxP * (RANGE / np.quantile(np.abs(map_NxP), 0.99)))
        axis.set_title(f"map {place + 1}", fontsize=9)
    save_figure(figure, path)


def last_evaluation(workdir: Path, name: str) -> tuple[float, float, float]:
    """The last loss of an evaluation set, that of predicting zero, and the linear predictor's."""
    lines = [x for x in read_metrics(workdir / "metrics.jsonl") if f"eval/{name}/loss" in x]
    kinds = ("", "_zero", "_linear")  # runs of older versions have the first only
    return tuple(lines[-1].get(f"eval/{name}/loss{kind}", np.nan) for kind in kinds)


SHOWN_MAPS = 8
RUN = "datasets/preprocessing/sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.lh.mgz"
TR = 1.4  # seconds, by the protocol; the file's header says otherwise
SPLIT_SECOND = 700  # of 913: the model never sees what comes after
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.py"
PROBE_CONFIG = CONFIG.with_name("probe.py")


class Steps:
    """Runs commands one after another and remembers them."""

    def __init__(self, total: int):
        self._total = total
        self.lines: list[str] = []
        self.seconds: list[float] = []

    def run(self, what: str, *arguments: str, done: Path | None = None) -> None:
        """Runs `python -m ARGUMENTS` unless `done` exists; stops the program if it fails."""
        self.lines.append(shlex.join(["python", "-m", *arguments]))
        print(f"\n[{len(self.lines)}/{self._total}] {what}\n$ {self.lines[-1]}", flush=True)
        begin = time.monotonic()
        if done is not None and done.exists():
            print(f"{done} is there already.")
        else:
            code = subprocess.run([sys.executable, "-m", *arguments]).returncode
            if code:
                raise SystemExit(code)
        self.seconds.append(time.monotonic() - begin)


def quickstart(workdir: Path) -> Path:
    """Runs everything and returns the path of the report."""
    scan = find_scan()
    begin = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    stores, rest, task = workdir / "stores", workdir / "pretrain", workdir / "pretrain_task"
    parts = {"rest_train": f"0:{SPLIT_SECOND}", "rest_heldout": f"{SPLIT_SECOND}:"}
    steps = Steps(total=7)
    for name, seconds in parts.items():
        steps.run(
            f"The real run, seconds {seconds}, becomes a store",
            "data_tools.convert", f"--input={scan}", f"--output={stores / name}", f"--tr={TR}",
            f"--seconds={seconds}", "--dataset=brainspace",
            done=stores / name,
        )  # fmt: skip
    steps.run(
        "A picture of the real run",
        "data_tools.inspect", str(stores / "rest_train"), f"--png={workdir / 'rest.png'}",
    )  # fmt: skip
    steps.run(
        "A small model fills in what is masked",
        "fmrifm.pretrain", f"--config={CONFIG}", f"--workdir={rest}",
        f"--config.data.train={stores / 'rest_train'}",
        f"--config.data.eval=held_out={stores / 'rest_heldout'}",
    )  # fmt: skip
    tasks = stores / "simulated"
    steps.run(
        "Ten simulated subjects do a task",
        "data_tools.simulate", f"--output={tasks}", "--subjects=10", "--runs=3", "--rest-runs=0",
        "--effect=2",
        done=tasks,
    )  # fmt: skip
    steps.run(
        "A model of the same size learns from them",
        "fmrifm.pretrain", f"--config={CONFIG}", f"--workdir={task}",
        f"--config.data.train={tasks / 'train'}",
        f"--config.data.eval=held_out={tasks / 'val'}",
    )  # fmt: skip
    steps.run(
        "A linear probe reads the task from frozen features, on subjects the model has not seen",
        "fmrifm.probe", f"--config={PROBE_CONFIG}", f"--workdir={workdir / 'probe'}",
        f"--config.model={task / 'model'}", f"--config.data.folder={tasks}",
    )  # fmt: skip
    report = workdir / "report.html"
    write_report(report, workdir, steps, time.monotonic() - begin)
    return report


def find_scan() -> Path:
    """The left hemisphere of the real run; the package that ships it is not imported."""
    spec = importlib.util.find_spec("brainspace")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / RUN).is_file():
            return Path(folder) / RUN
    raise InputError(
        "The real run of the quickstart is in the package brainspace: pip install '.[demo]'."
    )


def write_report(path: Path, workdir: Path, steps: Steps, seconds: float) -> None:
    """The page a newcomer opens: pictures, curves, the table, and the commands."""
    rest, task = workdir / "pretrain", workdir / "pretrain_task"
    draw_curves(workdir / "curves_rest.png", rest, "Real resting-state run")
    draw_maps(workdir / "maps.png", rest / "model")
    draw_curves(workdir / "curves_task.png", task, "Simulated task runs")
    results = json.loads((workdir / "probe" / "results.json").read_text())
    draw_accuracy(workdir / "probe.png", results)
    loss, zero, linear = last_evaluation(rest, "held_out")
    rows = results["results"]
    timed = [f"# {s:.0f} s\n{c}" for s, c in zip(steps.seconds, steps.lines, strict=True)]
    largest = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    page = render_page(
        Path(__file__).with_suffix(".html"),
        title="fmrifm quickstart: from a brain scan to a trained model",
        workdir=workdir,
        loss=f"{loss:.3f}",
        zero=f"{zero:.3f}",
        linear=f"{linear:.3f}",
        explained=f"{1 - loss / zero:.0%}",
        figures_rest=newest_figures(rest / "figures"),
        figures_task=newest_figures(task / "figures"),
        n_classes=len(results["classes"]),
        test=rows[0]["splits"]["test"],
        rows=[probe_row(row) for row in rows],
        grey=[row["baseline"] for row in rows],
        commands="\n".join(timed),
        seconds=f"{seconds:.0f}",
        gib=f"{largest / 2**20:.1f}",
    )
    write_bytes(path, page.encode())


def probe_row(row: dict) -> list[str]:
    """One line of the table: values with the standard deviation of their resamples."""
    metrics = row["splits"]["test"]["metrics"]
    values = [metrics.get(name) for name in ("balanced_accuracy", "f1_macro", "auroc")]
    texts = [f"{v['value']:.3f} \u00b1 {v['std']:.3f}" if v else "-" for v in values]
    return [row["representation"], row["head"], *texts]


def newest_figures(folder: Path) -> list[Path]:
    """The reconstructions of the last evaluation."""
    figures = sorted(folder.glob("*.png"), key=lambda path: path.stem.rpartition("step-")[2])
    return figures[-1:]


def main(argv: list[str]) -> None:
    from fmrifm.runs.checkpoint import quiet

    del argv
    quiet()
    with kind_errors():
        report = quickstart(Path(WORKDIR.value))
    print(f"\nOpen {report}")


if __name__ == "__main__":
    run(main, "workdir")
