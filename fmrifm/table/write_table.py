"""A table of finished runs, in all its forms."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import hparams, scalar

from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.reports.figures import save_figure
from fmrifm.runs.finished import Run
from fmrifm.table.figure import draw_table
from fmrifm.table.formats import rows_as_csv, runs_as_csv, table_as_latex, table_as_markdown
from fmrifm.table.rows import Table, differing, value_of
from fmrifm.table.words import say


def write_hparams(runs: Sequence[Run], metrics: Sequence[str], output: Path) -> None:
    """Publishes a directory of event files, one a run: `tensorboard --logdir` shows it.

    Args:
      runs: the fields in which they differ are shown, and their seeds.
      metrics: names of scores that all have.
      output: replaced if it is there.
    """
    names = differing(runs)
    columns = {name: _one_kind([value_of(run, name) for run in runs]) for name in names}
    with publish_directory(output) as new:
        for i, run in enumerate(runs):
            place = new / run.name
            place.mkdir(parents=True, exist_ok=True)
            values = {name: column[i] for name, column in columns.items()}
            _write(place, values, {name: run.scores[name] for name in metrics}, run.step or 0)


def _one_kind(values: list[Any]) -> list[Any]:
    """TensorBoard takes the kind of a field from one run, and leaves out None."""
    for kind in (bool, (int, float)):
        if all(isinstance(x, kind) and (kind is bool or not isinstance(x, bool)) for x in values):
            return values
    return [say(value) for value in values]


def _write(
    directory: Path, values: Mapping[str, Any], scores: Mapping[str, float], step: int
) -> None:
    summaries = {name: scalar(name, score) for name, score in scores.items()}
    tags = [summary.value[0].tag for summary in summaries.values()]  # as TensorBoard allows them
    experiment, start, end = hparams(values, dict.fromkeys(tags))
    events = EventsWriter(str(directory / "events"))
    for summary in (experiment, start, *summaries.values(), end):
        events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    events.close()


def write_table(table: Table, output: Path) -> str:
    """Writes table.md, table.tex, table.csv, table.png, runs.csv and hparams/ to a directory.

    Args:
      output: made if it is not there.

    Returns:
      The text of table.md.
    """
    text = table_as_markdown(table)
    files = {
        "table.csv": rows_as_csv(table),
        "table.tex": table_as_latex(table),
        "runs.csv": runs_as_csv(table),
        "table.md": text,
    }
    figure = draw_table(table)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(output / name, content.encode())
    save_figure(figure, output / "table.png")
    write_hparams(table.runs, table.metrics, output / "hparams")
    return text
