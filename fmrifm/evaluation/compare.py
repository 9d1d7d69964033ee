"""Many probes side by side: a long CSV, Markdown tables, and pictures with their intervals.

Rows are compared where target, unit, dataset, classes and split agree: that is a section, with a
table and a panel of its own. Of all metrics more is better.
"""

import csv
import dataclasses
import glob
import io
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files import write_bytes
from data_tools.inspection.pictures import new_figure, to_png

FIGURES = ("value", "std", "low", "high")
# Metrics of which a random guess reaches one over the number of classes.
_CHANCE = ("accuracy", "balanced_accuracy")
_GREY = "0.55"


@dataclasses.dataclass(frozen=True)
class Section:
    """What can be compared with each other."""

    target: str
    unit: str
    dataset: str
    split: str
    classes: tuple[str, ...]

    def chance(self, metric: str) -> float | None:
        return 1 / len(self.classes) if self.classes and metric in _CHANCE else None


@dataclasses.dataclass(frozen=True)
class Row:
    """One result on one split.

    Attributes:
      probe: the directory.
      step: of the checkpoint, None where the model is no step of a series.
      n: number of samples.
      metrics: {metric: {"value", "std", "low", "high"}}, NaN where nothing is told.
      run: the directory's name among those that are compared.
      series: the model's name among them, the same at all steps of its run.
    """

    section: Section
    probe: Path
    model: str
    step: int | None
    representation: str
    head: str
    baseline: bool
    n: int
    metrics: dict[str, dict[str, float]]
    run: str = ""
    series: str = ""

    @property
    def label(self) -> str:
        """The model's name as tables show it."""
        return self.series if self.step is None else f"{self.series} step {self.step:,}"

    def value(self, metric: str, figure: str = "value") -> float:
        return self.metrics.get(metric, {}).get(figure, math.nan)


def compare(paths: Sequence[str | Path], output: Path) -> str:
    """Writes table.csv, table.md, table.png and, of checkpoints of one run, steps.png.

    Args:
      paths: directories of probes, directories of such directories, or patterns of either; models
        are compared in pairs with the first of them.
      output: directory of what is written.

    Returns:
      The text of table.md.

    Raises:
      InputError: a path has no results, or results are damaged or of another version.
    """
    probes = find_probes(paths)
    rows = _named([row for probe in probes for row in read_rows(probe)])
    sections: dict[Section, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.section, []).append(row)
    text = "\n".join([*map(_table, sections.values()), *_paired_table(rows)])
    lines = {section: _lines(some) for section, some in sections.items()}
    earlier = {id(row) for some in lines.values() for line in some for row in line[:-1]}
    last = [[row for row in some if id(row) not in earlier] for some in sections.values()]
    files = {
        "table.csv": _as_csv(rows).encode(),
        "table.md": text.encode(),
        "table.png": _draw_intervals([_ranked(some) for some in last]),
    }
    if any(lines.values()):
        files["steps.png"] = _draw_steps([_distinct(some) for some in lines.values() if some])
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(output / name, content)
    if "steps.png" not in files:  # of an earlier comparison
        (output / "steps.png").unlink(missing_ok=True)
    return text


def find_probes(paths: Sequence[str | Path]) -> list[Path]:
    """The directories with a results.json behind the paths, each once, numbers in their order.

    Raises:
      InputError: a path has none.
    """
    probes = {}
    for path in map(str, paths):
        places = [path] if os.path.exists(path) else sorted(glob.glob(path), key=_natural)
        found = [probe for place in places for probe in _probes(Path(place))]
        if not found:
            raise InputError(f"{path} holds no results.json: give directories of finished probes.")
        probes |= {probe.resolve(): probe for probe in found if probe.resolve() not in probes}
    if not probes:
        raise InputError("Nothing is to be compared: give directories of finished probes.")
    return list(probes.values())


def _probes(place: Path) -> list[Path]:
    if place.name == "results.json":
        return [place.parent]
    if (place / "results.json").is_file():
        return [place]
    inside = (path.parent for path in place.glob("*/results.json"))
    return sorted(inside, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[str | int]:
    return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)]


def read_rows(probe: Path) -> list[Row]:
    """The results of a probe, a row for each split.

    Raises:
      InputError: results.json is damaged, or of a version that this program does not know.
    """
    path = probe / "results.json"
    try:
        results = json.loads(path.read_text("utf-8"))
        if results["version"] != 1:
            raise InputError(
                f"{path} is of version {results['version']}, this program reads 1: update fmrifm."
            )
        told = (str(results["target"]), str(results["unit"]))
        classes, step = tuple(map(str, results.get("classes") or ())), results.get("step")
        return [
            Row(
                Section(*told, str(row["dataset"]), split, classes),
                probe,
                str(results["model"]),
                None if step is None else int(step),
                str(row["representation"]),
                str(row["head"]),
                bool(row["baseline"]),
                int(result["n"]),
                {metric: _figures(x) for metric, x in result["metrics"].items()},
            )
            for row in results["results"]
            for split, result in row["splits"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): run the probe again.") from error


def _figures(told: dict[str, Any]) -> dict[str, float]:
    known = {name: told.get(name) for name in FIGURES}
    return {name: math.nan if x is None else float(x) for name, x in known.items()}


def _named(rows: list[Row]) -> list[Row]:
    """The rows with names of their runs and models that are short and tell them apart."""
    runs = _shorten([str(row.probe.absolute()) for row in rows])
    stems = [_stem(row) for row in rows]
    models = _shorten(stems)
    # Several probes of one model have its name alone only if they ask for different things.
    pairs = list(zip(rows, stems, strict=True))
    probes = {(row.section, stem, row.step, row.probe) for row, stem in pairs}
    count = Counter(x[:3] for x in probes)
    twins = {(section, stem) for (section, stem, _), n in count.items() if n > 1}
    named = []
    for row, stem in pairs:
        run, series = runs[str(row.probe.absolute())], models[stem]
        if (row.section, stem) in twins:
            folder = "" if row.step is None else os.path.dirname(run)
            series += f" ({folder or run})"
        named.append(dataclasses.replace(row, run=run, series=series))
    return named


def _stem(row: Row) -> str:
    """The model without its step."""
    if row.step is None:
        return row.model
    return re.sub(rf"/(checkpoints/)?(step-)?0*{row.step}/?$", "", row.model)


def _shorten(names: list[str]) -> dict[str, str]:
    """Paths without the directories that all of them share."""
    parts = {name: Path(name).parts or ("",) for name in names}
    shared = len(os.path.commonprefix(list(parts.values()))) if parts else 0
    start = min([shared, *(len(x) - 1 for x in parts.values())])
    return {name: "/".join(x[start:]) for name, x in parts.items()}


def _metrics(rows: Iterable[Row]) -> list[str]:
    """All metrics of some rows, the one that they are sorted by first."""
    return list(dict.fromkeys(metric for row in rows for metric in row.metrics))


def _ranked(rows: list[Row]) -> list[Row]:
    """The best first, baselines last; a baseline that is the same in all runs stands once."""
    first = next(iter(_metrics(rows)), "")
    kept: list[Row] = []
    baselines: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.baseline:
            baselines.setdefault((row.representation, row.head), []).append(row)
        else:
            kept.append(row)
    for some in baselines.values():
        kept += _once(some)

    def rank(row: Row):
        value = row.value(first)
        return row.baseline, math.isnan(value), -value

    return sorted(kept, key=rank)


def _once(rows: list[Row]) -> list[Row]:
    """One row where a baseline is the same in all runs, or one for each run where in its steps."""
    if _same(rows):
        return [dataclasses.replace(rows[0], series="all", step=None)]
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.series, []).append(row)
    kept = []
    for some in runs.values():
        kept += [dataclasses.replace(some[0], step=None)] if _same(some) else some
    return kept


def _same(rows: list[Row]) -> bool:
    return len({(row.n, repr(row.metrics)) for row in rows}) == 1 < len(rows)


def _table(rows: list[Row]) -> str:
    """A section in Markdown."""
    section, metrics, ranked = rows[0].section, _metrics(rows), _ranked(rows)
    best = {m: max((x for r in ranked if (x := r.value(m)) == x), default=None) for m in metrics}
    counts = sorted({row.n for row in rows})
    about = [f"unit {section.unit}, n = {counts[0]:,}"]
    if len(counts) > 1:
        about = [f"{about[0]} to {counts[-1]:,}: the samples are not the same"]
    if section.classes:
        k = len(section.classes)
        about.append(f"{k} classes, a random guess hits {1 / k:.1%}")
    body = []
    for row in ranked:
        cells = [_cell(row.metrics.get(m), row.value(m) == best[m]) for m in metrics]
        body.append([row.label, row.representation, row.head, *cells])
    return (
        f"## {section.target}, {section.dataset} {section.split}\n\n{'; '.join(about)}\n\n"
        + _markdown(["model", "representation", "head", *metrics], body)
    )


def _cell(figures: dict[str, float] | None, bold: bool) -> str:
    if figures is None or math.isnan(figures["value"]):
        return "-"
    value = f"{figures['value']:.3f}"
    value = f"**{value}**" if bold else value
    if math.isnan(figures["low"]) or math.isnan(figures["high"]):
        return value
    return f"{value} [{figures['low']:.3f}, {figures['high']:.3f}]"


def _markdown(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("representation", "head", "baseline", "split", "n", "metric")
    writer.writerow(["run", "model", "target", "unit", "dataset", *names, *FIGURES])
    for row in rows:
        about = (row.run, row.model, row.section.target, row.section.unit, row.section.dataset)
        what = (row.representation, row.head, row.baseline, row.section.split, row.n)
        for metric, figures in row.metrics.items():
            told = ("" if math.isnan(x) else x for x in figures.values())
            writer.writerow([*about, *what, metric, *told])
    return text.getvalue()


def _paired_table(rows: list[Row]) -> list[str]:
    """The section of paired differences, if there is one."""
    names = {row.probe: row.label for row in rows}
    asked = {row.probe: (row.section.target, row.section.unit) for row in rows}
    first: dict[tuple[str, str], Path] = {}
    body = []
    for probe, question in asked.items():
        reference = first.setdefault(question, probe)
        for x in paired(reference, probe) if probe != reference else ():
            difference = f"{x['difference']:+.3f} [{x['low']:+.3f}, {x['high']:+.3f}]"
            what = (x["representation"], x["head"], x["split"], x["metric"])
            pair = (names[probe], names[reference])
            body.append([*pair, *what, x["n"], difference, f"{x['p']:.3g}"])
    if not body:
        return []
    header = ["model", "minus", "representation", "head", "split", "metric", "n"]
    told = "Of results for the same samples, with 95 % intervals, against the first directory."
    table = _markdown([*header, "difference", "p"], body)
    return [f"## Paired differences\n\n{told}\n\n{table}"]


def paired(first: Path, other: Path, seed: int = 0) -> list[dict[str, Any]]:
    """How much better one probe is than another on the same samples.

    Args:
      first, other: directories of probes; what has the same representation, head and split in
        both, is no baseline, and has predictions of the same samples there, is compared.
      seed: of the resamples.

    Returns:
      representation, head, split, metric, n, and what `compare_paired` tells of `other` minus
      `first`: difference, low, high, p.

    Raises:
      InputError: results or predictions are damaged.
    """
    from fmrifm.evaluation.statistics import compare_paired

    theirs = {(r.section, r.representation, r.head): r for r in read_rows(first) if not r.baseline}
    found = []
    for row in read_rows(other):
        match = theirs.get((row.section, row.representation, row.head))
        metric = next(iter(row.metrics), "")
        if match is None or not math.isfinite(row.value(metric) + match.value(metric)):
            continue
        name, split = f"predictions_{row.representation}_{row.head}.npz", row.section.split
        old, new = (_predictions(probe / name, split) for probe in (first, other))
        if old is None or new is None or not _same_samples(old, new):
            continue
        what = {"representation": row.representation, "head": row.head, "split": split}
        told = compare_paired(
            new["target"],
            new["prediction"],
            old["prediction"],
            subjects=new.get("subject"),
            metric=metric,
            seed=seed,
        )
        found.append({**what, "metric": metric, "n": row.n, **told})
    return found


def _same_samples(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(old[x], new[x]) for x in ("key", "start", "target"))


def _predictions(path: Path, split: str) -> dict[str, np.ndarray] | None:
    """Predictions of a split, in the order of key and start; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ["key", "start", "target", "prediction"]
            names += ["subject"] * ("subject" in file.files)
            keep = np.flatnonzero(file["split"] == split)
            data = {name: file[name][keep] for name in names}
        order = np.lexsort((data["start"], data["key"]))
        return {name: values[order] for name, values in data.items()}
    except (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}): run the probe again.") from error


def _lines(rows: list[Row]) -> list[list[Row]]:
    """Rows of a section that differ by their step only, in its order, where there are several."""
    lines: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.step is not None:
            what = (row.baseline, row.series, row.representation, row.head)
            lines.setdefault(what, []).append(row)
    lines = dict(sorted(lines.items(), key=lambda item: item[0][0]))
    some = [sorted(line, key=lambda row: row.step) for line in lines.values()]
    return [line for line in some if line[0].step < line[-1].step]


def _distinct(lines: list[list[Row]]) -> list[list[Row]]:
    """The lines with those of a baseline that are the same in all runs once."""
    kept = {}
    for line in lines:
        values = repr([(row.step, row.n, row.metrics) for row in line])
        what = (line[0].representation, line[0].head, values if line[0].baseline else id(line))
        if what in kept:
            line = [dataclasses.replace(row, series="all") for row in line]
        kept[what] = line
    return list(kept.values())


def _draw_intervals(panels: list[list[Row]]) -> bytes:
    """Points with 95 % intervals, a panel for each section, a row a result."""
    heights = [len(rows) + 3 for rows in panels]
    figure = new_figure(9, 0.22 * sum(heights) + 0.3)
    every_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    colours = _colours(row.series for rows in panels for row in rows if not row.baseline)
    for axes, rows in zip(every_axes, panels, strict=True):
        metric, words = _prepare(axes, rows, axes.axvline)
        for y, row in enumerate(rows):
            colour = _GREY if row.baseline else colours[row.series]
            axes.plot([row.value(metric, x) for x in ("low", "high")], [y, y], color=colour)
            axes.plot(row.value(metric), y, "o", color=colour, markersize=4.5)
        axes.set_yticks(
            range(len(rows)), [f"{r.label}   {r.representation}   {r.head}" for r in rows]
        )
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(_GREY if row.baseline else "0.1")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_xlabel(words, fontsize=8)
    return to_png(figure)


def _draw_steps(panels: list[list[list[Row]]]) -> bytes:
    """Curves over the steps of a run, a panel for each section, baselines grey."""
    figure = new_figure(9, 3.2 * len(panels))
    every_axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, lines in zip(every_axes, panels, strict=True):
        metric, words = _prepare(axes, [line[0] for line in lines], axes.axhline)
        names = ["   ".join((x[0].series, x[0].representation, x[0].head)) for x in lines]
        colours = _colours(n for n, x in zip(names, lines, strict=True) if not x[0].baseline)
        greys = iter(("-", "--", ":", "-.") * len(lines))
        for name, line in zip(names, lines, strict=True):
            colour = colours.get(name, _GREY)
            style = next(greys) if line[0].baseline else "o-"
            steps = [row.step for row in line]
            value, low, high = (
                [row.value(metric, x) for row in line] for x in ("value", "low", "high")
            )
            axes.plot(steps, value, style, color=colour, markersize=3.5, label=name)
            if not line[0].baseline:
                axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.02))
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(words, fontsize=8)
    return to_png(figure)


def _prepare(axes, rows: list[Row], draw_chance) -> tuple[str, str]:
    """Title and chance line of a panel; returns the metric that it shows, and it in words."""
    section = rows[0].section
    metric = next(iter(_metrics(rows)), "")
    axes.set_title(f"{section.target}, {section.dataset} {section.split}", fontsize=9, loc="left")
    words = metric.replace("_", " ")
    if (chance := section.chance(metric)) is not None:
        words += " (dotted: a random guess)"
        draw_chance(chance, color="0.3", linewidth=0.9, linestyle=":", zorder=0)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return metric, words


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Colours that colour-blind readers tell apart, from the first again after the eighth."""
    cycle = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#117733")
    return {name: cycle[i % len(cycle)] for i, name in enumerate(dict.fromkeys(names))}
