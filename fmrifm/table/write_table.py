"""A table of finished runs, in all its forms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2 as hparams
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.reports.figures import save_figure
from fmrifm.runs.event_file import EventFile, clean_tag, scalar
from fmrifm.runs.finished import Run
from fmrifm.table.figure import draw_table
from fmrifm.table.formats import rows_as_csv, runs_as_csv, table_as_latex, table_as_markdown
from fmrifm.table.rows import Table, differing, value_of
from fmrifm.table.words import say

_TYPES = {
    bool: hparams.DATA_TYPE_BOOL,
    int: hparams.DATA_TYPE_FLOAT64,
    float: hparams.DATA_TYPE_FLOAT64,
    str: hparams.DATA_TYPE_STRING,
}


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
    metrics = [hparams.MetricInfo(name=hparams.MetricName(tag=clean_tag(name))) for name in scores]
    fields = [hparams.HParamInfo(name=name, type=_TYPES[type(x)]) for name, x in values.items()]
    events = EventFile(directory)
    experiment = hparams.Experiment(hparam_infos=fields, metric_infos=metrics)
    end = SessionEndInfo(status=hparams.STATUS_SUCCESS)
    summaries = [
        _plugin_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)),
        hparams_pb(values),
        *(scalar(name, score) for name, score in scores.items()),
        _plugin_summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    ]
    events.write(step, summaries)
    events.close()


def _plugin_summary(tag: str, content: HParamsPluginData) -> Summary:
    about = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])


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
