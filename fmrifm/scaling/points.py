"""Points for laws: the loss of a run on an evaluation set, and how large the run was.

A run gives one point for each set, of its last or best checkpoint after its schedule has ended.
Losses of earlier steps are none: there the learning rate has not come down yet, so they lie above
what a run with so short a schedule reaches (Hoffmann et al. 2022, arXiv 2203.15556, section 3.1).
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.readers.tables import read_rows, to_number
from fmrifm.runs.finished import Run, read_runs

# Sizes that laws go with, and how sets relate to the training data, in the order of reports.
SIZES = {
    "frames": "distinct training frames",
    "params": "encoder parameters",
    "flops": "training compute (FLOPs)",
}
DISTRIBUTIONS = {
    "in": "in distribution",
    "partly": "in distribution for some runs",
    "unknown": "distribution unknown",
    "out": "out of distribution",
}
_PUBLISHED = "published"


@dataclasses.dataclass(frozen=True)
class Point:
    """A loss and where it comes from; sizes that are not known are None.

    Attributes:
      run: its name.
      set: name of the evaluation set.
      loss: masked loss.
      frames: distinct frames of the training data.
      params: of the encoder.
      flops: of training, from the first step to the last.
      batch_size, steps: of the schedule.
      draw: seed of the run, or the draw of its data in a table.
      distribution: "in" where some dataset of the set was trained on, "out" where none was.
      checkpoint: "last", "best on NAME", or "published".
    """

    run: str
    set: str
    loss: float
    frames: float | None = None
    params: float | None = None
    flops: float | None = None
    batch_size: int | None = None
    steps: int | None = None
    draw: str | None = None
    distribution: str = "unknown"
    checkpoint: str = _PUBLISHED


def read_points(patterns: Sequence[str], checkpoint: str = "auto") -> list[Point]:
    """Points of finished runs and of tables.

    Args:
      patterns: see `read_runs`; a path that ends in .csv is a table with the columns set and loss,
        one or more of frames, params and flops, and perhaps draw and distribution (in or out).
      checkpoint: see `read_runs`.
    """
    tables = [pattern for pattern in patterns if pattern.endswith(".csv")]
    places = [pattern for pattern in patterns if not pattern.endswith(".csv")]
    runs = read_runs(places, checkpoint) if places else []
    kinds = {run.checkpoint: run.name for run in runs}
    if len(kinds) > 1:
        told = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise InputError(f"Checkpoints of the runs differ, {told}: give --checkpoint=last.")
    points = [point for run in runs for point in _points_of(run)]
    points += [point for table in tables for point in _read_table(Path(table))]
    if not points:
        raise InputError(
            f"The checkpoints were chosen on {runs[0].chosen_on}, the only evaluation set, so that "
            "no loss is fair: give --checkpoint=last."
            if runs
            else f"{', '.join(tables) or 'The list of runs'} holds no points: give finished runs."
        )
    for point in points:
        if not (math.isfinite(point.loss) and point.loss > 0):
            raise InputError(f"{point.run} has the loss {point.loss} on {point.set}: leave it out.")
    return points


def distribution_of(points: Sequence[Point]) -> str:
    """Of a set, over the runs that were scored on it."""
    found = {point.distribution for point in points}
    return found.pop() if len(found) == 1 else "partly" if "unknown" not in found else "unknown"


def _points_of(run: Run) -> list[Point]:
    if run.step is None:
        raise InputError(f"The run {run.name} is a probe: give pretraining runs only.")
    sizes, config = run.sizes(), run.config
    trained = set(sizes["train"]["datasets"])
    batch, steps = (config.get(name) for name in ("batch_size", "total_steps"))
    if not all(type(number) is int and number > 0 for number in (batch, steps)):
        raise InputError(
            f"The config of {run.name} has no batch_size or total_steps: leave it out."
        )
    return [
        Point(
            run=run.name,
            set=name,
            loss=loss,
            frames=sizes["train"]["frames"],
            params=sizes["encoder_params"],
            flops=sizes["flops_per_clip"] * batch * steps,
            batch_size=batch,
            steps=steps,
            draw=f"seed {config.get('seed')}",
            distribution=_distribution(sizes.get("eval", {}).get(name), trained),
            checkpoint=run.checkpoint,
        )
        for name, loss in run.losses().items()
    ]


def _distribution(datasets: list[str] | None, trained: set[str]) -> str:
    if datasets is None:
        return "unknown"
    return "in" if trained & set(datasets) else "out"


def _read_table(path: Path) -> list[Point]:
    points = []
    rows = read_rows(path, "set", "loss", tuple(SIZES))
    for number, row in rows:
        where = f"{path.name}:{number}"
        sizes = {name: to_number(row[name]) for name in SIZES if row.get(name)}
        loss = to_number(row["loss"])
        if loss is None:
            raise InputError(f"{where} has no number as its loss: mend that line.")
        if not sizes or not all(x is not None and x > 0 for x in sizes.values()):
            raise InputError(f"{where} has no size above 0: mend that line.")
        kind = row.get("distribution") or "unknown"
        if kind not in DISTRIBUTIONS:
            raise InputError(f"{where} has the distribution {kind}: write in or out.")
        draw = row.get("draw") or None
        points.append(Point(where, row["set"], loss, **sizes, draw=draw, distribution=kind))
    return points
