"""What probes have left, as rows that can be compared, and the predictions behind them."""

import dataclasses
import glob
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.json_files import read_json
from data_tools.files.npy import read_arrays
from data_tools.wording import shorten_paths
from fmrifm.probe.results.results import FIGURES

# Metrics of which a random guess reaches one over the number of classes.
_CHANCE = ("accuracy", "balanced_accuracy")


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
      data: which stores it was about.
      metrics: {metric: a number for each of FIGURES}, NaN where nothing is told.
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
    data: str
    metrics: dict[str, dict[str, float]]
    run: str = ""
    series: str = ""

    @property
    def label(self) -> str:
        """The model's name as tables show it."""
        return self.series if self.step is None else f"{self.series} step {self.step:,}"

    def value(self, metric: str, figure: str = "value") -> float:
        return self.metrics.get(metric, {}).get(figure, math.nan)

    def interval(self, metric: str) -> tuple[float, float]:
        """Of 95 %: over subjects where that is told, else over samples."""
        prefix = "subject_" if self.knows_subjects(metric) else ""
        return self.value(metric, f"{prefix}low"), self.value(metric, f"{prefix}high")

    def knows_subjects(self, metric: str) -> bool:
        """Whether an interval over subjects is told."""
        return math.isfinite(self.value(metric, "subject_low") + self.value(metric, "subject_high"))


def find_probes(paths: Sequence[str | Path]) -> list[Path]:
    """The directories with a results.json behind the paths, each once, numbers in their order."""
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
    """The results of a probe, a row for each split."""
    path = probe / "results.json"
    results = read_json(path, "run the probe again")
    try:
        if results["version"] != 1:
            raise InputError(
                f"{path} is of version {results['version']}, this program reads 1: update fmrifm."
            )
        told = (str(results["target"]), str(results["unit"]))
        data = (results.get("config") or {}).get("data") or {}
        stores = str({name: data.get(name) for name in ("folder", "train", "val", "test", "path")})
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
                stores,
                {metric: _figures(x) for metric, x in result["metrics"].items()},
            )
            for row in results["results"]
            for split, result in row["splits"].items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({error}): run the probe again.") from error


def _figures(told: dict[str, Any]) -> dict[str, float]:
    known = {name: told.get(name) for name in FIGURES}
    return {name: math.nan if x is None else float(x) for name, x in known.items()}


def name_rows(rows: list[Row]) -> list[Row]:
    """The rows with names of their runs and models that are short and tell them apart."""
    runs = shorten_paths([str(row.probe.absolute()) for row in rows])
    # The models without their steps.
    stems = [re.sub(rf"(/checkpoints)?{_step_ending(row)}", "", row.model) for row in rows]
    models = shorten_paths(stems)
    # Several probes of one model have its name alone only if they ask for different things.
    pairs = list(zip(rows, stems, strict=True))
    probes = {(row.section, stem, row.step, row.probe) for row, stem in pairs}
    count = Counter(x[:3] for x in probes)
    twins = {(section, stem) for (section, stem, _), n in count.items() if n > 1}
    named = []
    for row, stem in pairs:
        run, series = runs[str(row.probe.absolute())], models[stem]
        if (row.section, stem) in twins:
            # A series of steps, each in a directory of its own, keeps one name.
            series += f" ({re.sub(_step_ending(row), '', run) or run})"
        named.append(dataclasses.replace(row, run=run, series=series))
    return named


def _step_ending(row: Row) -> str:
    """A pattern of how the paths of a row end that are of its step alone."""
    return "$^" if row.step is None else rf"/(step-)?0*{row.step}/?$"


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[list[Row]]:
    """The rows with the same key together, in the order of their first rows."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """All metrics of some rows, the one that they are sorted by first."""
    return list(dict.fromkeys(metric for row in rows for metric in row.metrics))


def describe_intervals(rows: Iterable[Row]) -> str:
    """What the intervals of some rows are, in words."""
    if any(row.knows_subjects(metric) for row in rows for metric in row.metrics):
        return "95 % intervals over subjects where results have them, else over samples"
    return "95 % intervals over samples"


def read_predictions(path: Path, split: str) -> dict[str, np.ndarray] | None:
    """Predictions of a split, in the order of key and start; None where there is no such file."""
    if not path.is_file():
        return None
    arrays = read_arrays(path, "run the probe again")
    try:
        names = ["key", "start", "target", "prediction"]
        names += ["subject"] * ("subject" in arrays)
        keep = np.flatnonzero(arrays["split"] == split)
        data = {name: arrays[name][keep] for name in names}
        order = np.lexsort((data["start"], data["key"]))
        return {name: values[order] for name, values in data.items()}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is damaged ({error}): run the probe again.") from error
