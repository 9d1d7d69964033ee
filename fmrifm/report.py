"""The quickstart's report: one HTML file with everything inside."""

import base64
import html
import json
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from data_tools.files import write_bytes
from fmrifm.trainer.figures import save_figure
from fmrifm.trainer.metrics import read_metrics

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1f; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.2rem; font-size: 1.25rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .8rem;
       border-bottom: 1px solid #ddd; text-align: left; } td.n, th.n { text-align: right; }
tr.baseline { color: #777; } pre { background: #f4f4f6; padding: .8rem; overflow-x: auto;
       font-size: .82rem; } .big { font-size: 1.1rem; }
"""


class Report:
    """Collects sections and writes them as one self-contained page."""

    def __init__(self, title: str):
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self._title = title

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, big: bool = False) -> None:
        self._parts.append(f"<p{' class=big' if big else ''}>{html.escape(text)}</p>")

    def picture(self, path: Path, caption: str) -> None:
        data = base64.b64encode(path.read_bytes()).decode()
        self._parts.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def table(self, header: list[str], rows: Iterable[list[str]], grey: Iterable[bool]) -> None:
        """Columns after the first are set to the right; grey rows are baselines."""

        def line(cells, tag, css=""):
            inner = "".join(
                f"<{tag}{' class=n' if i else ''}>{html.escape(str(cell))}</{tag}>"
                for i, cell in enumerate(cells)
            )
            return f"<tr{css}>{inner}</tr>"

        body = [
            line(row, "td", " class=baseline" if is_grey else "")
            for row, is_grey in zip(rows, grey, strict=True)
        ]
        self._parts.append(f"<table>{line(header, 'th')}{''.join(body)}</table>")

    def commands(self, lines: list[str]) -> None:
        self._parts.append(f"<pre>{html.escape(chr(10).join(lines))}</pre>")

    def write(self, path: Path) -> None:
        page = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(self._title)}"
            f"</title><style>{STYLE}</style>{''.join(self._parts)}</html>"
        )
        write_bytes(path, page.encode())


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
