"""Many probes side by side: a long CSV, Markdown tables, and pictures with their intervals.

Rows are compared where target, unit, dataset, classes and split agree: that is a section, with a
table and a panel of its own. Of all metrics more is better.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.files.atomic import write_bytes
from data_tools.reports.text_tables import as_csv, as_markdown
from data_tools.store.checks import refuse_inside_store
from fmrifm.probe.results.compare_figures import draw_intervals, draw_steps, find_lines
from fmrifm.probe.results.compare_rows import (
    Row,
    describe_intervals,
    find_probes,
    grouped,
    metrics_of,
    name_rows,
    read_predictions,
    read_rows,
)
from fmrifm.probe.results.results import FIGURES
from fmrifm.probe.scores.bootstrap import compare_paired


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
    refuse_inside_store(output)
    probes = find_probes(paths)
    rows = name_rows([row for probe in probes for row in read_rows(probe)])
    sections = grouped(rows, lambda row: row.section)
    about = f"In brackets: {describe_intervals(rows)}.\n"
    text = "\n".join([about, *map(_table, sections), *_paired_table(rows)])
    panels = [some for some in map(find_lines, sections) if some]
    earlier = {id(row) for some in panels for line in some for row in line[:-1]}
    last = [[row for row in some if id(row) not in earlier] for some in sections]
    files = {
        "table.csv": _rows_as_csv(rows).encode(),
        "table.md": text.encode(),
        "table.png": draw_intervals([_ranked(some) for some in last]),
    }
    if panels:
        files["steps.png"] = draw_steps(panels)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(output / name, content)
    if "steps.png" not in files:  # of an earlier comparison
        (output / "steps.png").unlink(missing_ok=True)
    return text


def _ranked(rows: list[Row]) -> list[Row]:
    """The best first, baselines last; a baseline that is the same in all runs stands once."""
    first = next(iter(metrics_of(rows)), "")
    kept = [row for row in rows if not row.baseline]
    baselines = [row for row in rows if row.baseline]
    for some in grouped(baselines, lambda row: (row.representation, row.head)):
        kept += _once(some)

    def rank(row: Row):
        value = row.value(first)
        return row.baseline, math.isnan(value), -value

    return sorted(kept, key=rank)


def _once(rows: list[Row]) -> list[Row]:
    """One row where a baseline is the same in all runs, or one for each run where in its steps."""
    if _same(rows):
        return [dataclasses.replace(rows[0], series="all", step=None)]
    kept = []
    for some in grouped(rows, lambda row: row.series):
        kept += [dataclasses.replace(some[0], step=None)] if _same(some) else some
    return kept


def _same(rows: list[Row]) -> bool:
    return len({(row.n, repr(row.metrics)) for row in rows}) == 1 < len(rows)


def _table(rows: list[Row]) -> str:
    """A section in Markdown."""
    section, metrics, ranked = rows[0].section, metrics_of(rows), _ranked(rows)
    best = {m: max((x for r in ranked if (x := r.value(m)) == x), default=None) for m in metrics}
    counts = sorted({row.n for row in rows})
    about = [f"unit {section.unit}, n = {counts[0]:,}"]
    if len(counts) > 1:
        about = [f"{about[0]} to {counts[-1]:,}: the samples are not the same"]
    elif len({row.data for row in rows}) > 1:
        about.append("the stores are not the same (config in results.json)")
    if section.classes:
        k = len(section.classes)
        about.append(f"{k} classes, a random guess hits {1 / k:.1%}")
    body = []
    for row in ranked:
        cells = [_cell(row, m, row.value(m) == best[m]) for m in metrics]
        count = [f"{row.n:,}"] if len(counts) > 1 else []
        body.append([row.label, row.representation, row.head, *count, *cells])
    count = ["n"] if len(counts) > 1 else []
    return (
        f"## {section.target}, {section.dataset} {section.split}\n\n{'; '.join(about)}\n\n"
        + as_markdown(["model", "representation", "head", *count, *metrics], body)
    )


def _cell(row: Row, metric: str, bold: bool) -> str:
    if math.isnan(row.value(metric)):
        return "-"
    value = f"{row.value(metric):.3f}"
    value = f"**{value}**" if bold else value
    low, high = row.interval(metric)
    return value if math.isnan(low + high) else f"{value} [{low:.3f}, {high:.3f}]"


def _rows_as_csv(rows: list[Row]) -> str:
    names = ("representation", "head", "baseline", "split", "n", "metric")
    lines = [["run", "model", "target", "unit", "dataset", *names, *FIGURES]]
    for row in rows:
        about = (row.run, row.model, row.section.target, row.section.unit, row.section.dataset)
        what = (row.representation, row.head, row.baseline, row.section.split, row.n)
        for metric, figures in row.metrics.items():
            told = ("" if math.isnan(x) else x for x in figures.values())
            lines.append([*about, *what, metric, *told])
    return as_csv(lines)


def _paired_table(rows: list[Row]) -> list[str]:
    """The section of paired differences, if there is one."""
    names = {row.probe: row.label for row in rows}
    asked = {row.probe: (row.section.target, row.section.unit) for row in rows}
    first: dict[tuple[str, str], Path] = {}
    body = []
    for probe, question in asked.items():
        reference = first.setdefault(question, probe)
        for x in paired(reference, probe) if probe != reference else ():
            difference = f"{x['difference']:+.3f}"
            if x["low"] is not None:
                difference += f" [{x['low']:+.3f}, {x['high']:+.3f}]"
            what = (x["representation"], x["head"], x["split"], x["metric"])
            pair = (names[probe], names[reference])
            body.append([*pair, *what, x["n"], difference, f"{x['p']:.3g}"])
    if not body:
        return []
    header = ["model", "minus", "representation", "head", "split", "metric", "n"]
    told = "Of results for the same samples, with 95 % intervals, against the first directory."
    table = as_markdown([*header, "difference", "p"], body)
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
    """

    theirs = {(r.section, r.representation, r.head): r for r in read_rows(first) if not r.baseline}
    found = []
    for row in read_rows(other):
        match = theirs.get((row.section, row.representation, row.head))
        metric = next(iter(row.metrics), "")
        if match is None or not math.isfinite(row.value(metric) + match.value(metric)):
            continue
        name, split = f"predictions_{row.representation}_{row.head}.npz", row.section.split
        old, new = (read_predictions(probe / name, split) for probe in (first, other))
        if old is None or new is None:
            continue
        if not all(np.array_equal(old[x], new[x]) for x in ("key", "start", "target")):
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
