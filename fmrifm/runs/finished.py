"""Finished runs: what was asked of each, how large it was, and how it scored.

A run is the workdir of `fmrifm.pretrain`, with the probes in its probes/, or that of a probe.
Scores are of one checkpoint, the last or the best; a probe counts if it was of that one. The best
was chosen on one of the evaluation sets (keep_best), and so its loss there is no fair score and is
not given.
"""

import dataclasses
import glob
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_tools.errors import InputError, check_file_name
from data_tools.files.json_files import read_json
from data_tools.wording import shorten_paths
from fmrifm.runs.config import flatten
from fmrifm.runs.metrics_writer import iterate_metrics
from fmrifm.runs.provenance import read_starts
from fmrifm.runs.sealed_lines import unseal

CHECKPOINTS = ("auto", "last", "best")
_SCORES = ("eval/", "probe/")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
      path: its workdir.
      name: the path without the directories that all runs of the set share.
      config: its fields, "optim.lr" and so on.
      scores: "eval/NAME/loss", "probe/NAME/..." and so on, of one checkpoint.
      step: of that checkpoint; None for a probe.
      chosen_on: the evaluation set by which it was chosen; None for the last one.
    """

    path: Path
    name: str
    config: dict[str, Any]
    scores: dict[str, float]
    step: int | None
    chosen_on: str | None

    @property
    def checkpoint(self) -> str:
        return "last" if self.chosen_on is None else f"best on {self.chosen_on}"

    def losses(self) -> dict[str, float]:
        """Masked loss of each evaluation set."""
        return {
            key.removeprefix("eval/").removesuffix("/loss"): value
            for key, value in self.scores.items()
            if key.startswith("eval/") and key.endswith("/loss")
        }

    def sizes(self) -> dict[str, Any]:
        """See `provenance.measure`; of runs that did not record it, by opening their stores.

        Raises:
          InputError: the run is a probe, its stores are not there any more, or it is too old.
        """
        if self.step is None:
            raise InputError(f"{self.path} is a probe, which has no sizes: give pretraining runs.")
        # Only runs of old versions need them, and tables of runs should not wait for JAX.
        from fmrifm.input.data import open_data
        from fmrifm.runs.provenance import measure

        starts = read_starts(self.path)
        if starts and starts[-1].get("sizes"):
            sizes = starts[-1]["sizes"]
            _check_sizes(sizes, self.path)
            return sizes
        config = ConfigDict(read_json(self.path / "config.json", "leave the run out"))
        try:
            return measure(config, open_data(config))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The config of {self.path} is of an older version ({error}): leave it out."
            ) from error


def read_runs(patterns: Sequence[str], checkpoint: str = "auto") -> list[Run]:
    """The finished runs behind globs, each once, in the order of their names.

    Args:
      patterns: directories of runs, or globs; a directory of a sweep stands for its points.
      checkpoint: last, best, or auto: best where a run has keep_best.

    Raises:
      InputError: nothing there, a run that is damaged or not complete, or best without keep_best.
    """
    paths = {}
    for pattern in patterns:
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        found = [path for match in matches for path in _runs_in(Path(match))]
        if not found:
            raise InputError(f"{pattern} holds no run: give workdirs of finished runs, or a glob.")
        paths |= {path.resolve(): path for path in found}
    # Without "..", which absolute() keeps: names become paths below an output.
    places = {path: os.path.abspath(path) for path in paths.values()}
    names = shorten_paths(list(places.values()))
    return [_read(path, names[place], checkpoint) for path, place in places.items()]


def _runs_in(place: Path) -> list[Path]:
    if _is_run(place):
        return [place]
    if (place / "sweep.json").is_file():  # other runs may lie beside its points
        path, fix = place / "sweep.json", "launch the sweep again, which writes it"
        plan = unseal(path.read_bytes())
        try:
            names = [str(point["name"]) for point in (plan or {})["points"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged (points): {fix}.") from error
        for name in names:
            check_file_name(name, f"In {path} the point")
        return [place / name for name in names]
    return sorted(path for path in place.glob("*") if _is_run(path))


def _is_run(path: Path) -> bool:
    return (path / "metrics.jsonl").is_file() or (path / "results.json").is_file()


def _read(path: Path, name: str, checkpoint: str) -> Run:
    if not _is_run(path):
        raise InputError(f"The run {path} has not begun: finish the sweep, or leave it out.")
    try:
        if not (path / "metrics.jsonl").is_file():
            results = read_json(path / "results.json", "leave the run out")
            if not isinstance(results["config"], dict):
                raise ValueError("its config is no table")
            return Run(path, name, flatten(results["config"]), _probe_scores(results), None, None)
        config = flatten(read_json(path / "config.json", "leave the run out"))
        lines, last = _read_scores(path / "metrics.jsonl")
        step, chosen_on = _choose(path, config, lines, last, checkpoint)
        scores = {
            key: value
            for line in lines
            if line["step"] == step
            for key, value in line.items()
            if key.startswith(_SCORES) and type(value) in (int, float)
        }
        for file in sorted((path / "probes").glob("*/results.json")):
            results = read_json(file, "probe the run again")
            probed = results.get("step") or last
            # Those of step-... were made during the training, and are in metrics.jsonl.
            if probed == step and not file.parent.name.startswith("step-"):
                prefix = f"probe/{file.parent.name}/"
                scores |= {prefix + key: value for key, value in _probe_scores(results).items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"The run {path} is damaged ({error}): leave it out.") from error
    if chosen_on is not None:
        scores = {k: v for k, v in scores.items() if not k.startswith(f"eval/{chosen_on}/")}
    elif not scores:
        raise InputError(f"The run {path} was never evaluated: probe it, or leave it out.")
    return Run(path, name, config, scores, step, chosen_on)


def _check_sizes(sizes: Any, path: Path) -> None:
    """Refuses sizes that are not of the form that `provenance.measure` gives."""

    def is_size(value: Any) -> bool:
        return type(value) in (int, float) and 0 <= value < math.inf

    def are_names(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(name, str) for name in value)

    train = sizes.get("train") if isinstance(sizes, dict) else None
    good = (
        isinstance(train, dict)
        and is_size(train.get("frames"))
        and are_names(train.get("datasets"))
        and all(is_size(sizes.get(name)) for name in ("encoder_params", "flops_per_clip"))
        and isinstance(sizes.get("eval", {}), dict)
        and all(x is None or are_names(x) for x in sizes.get("eval", {}).values())
    )
    if not good:
        raise InputError(f"The provenance of {path} is damaged (sizes): leave the run out.")


def _read_scores(path: Path) -> tuple[list[dict], int]:
    """The lines with scores, which are few, and the last step of all lines."""
    lines, last = [], 0
    for line in iterate_metrics(path):
        last = line["step"]
        if any(key.startswith(_SCORES) for key in line):
            lines.append(line)
    return lines, last


def _choose(
    path: Path, config: dict[str, Any], lines: list[dict], last: int, checkpoint: str
) -> tuple[int, str | None]:
    """The step whose scores count, and the set it was chosen on."""
    if last < config["total_steps"]:
        raise InputError(
            f"The run {path} is at step {last} of {config['total_steps']}: finish it, or leave it "
            "out."
        )
    name = config.get("keep_best")
    if checkpoint == "last" or (checkpoint == "auto" and not name):
        return last, None
    key = f"eval/{name}/loss"
    losses = [(line[key], line["step"]) for line in lines if key in line]
    if not losses:
        raise InputError(f"The run {path} has no keep_best to choose by: report the last step.")
    return min(losses)[1], name


def _probe_scores(results: dict[str, Any]) -> dict[str, float]:
    """ "REPRESENTATION_HEAD/SPLIT/METRIC" -> value; baselines are left out."""
    return {
        f"{row['representation']}_{row['head']}/{split}/{metric}": float(figures["value"])
        for row in results["results"]
        if not row["baseline"]
        for split, told in row["splits"].items()
        for metric, figures in told["metrics"].items()
    }
