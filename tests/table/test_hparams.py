"""TensorBoard's HParams: every run is there with its fields and scores."""

import struct

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fmrifm.runs.finished import read_runs
from fmrifm.table.write_table import write_hparams
from tests.runs.run_directories import write_run

ACCURACY = "probe/patch@6_linear/test/accuracy"


def read_events(directory):
    """The summaries of the one event file in a directory: length, its checksum, bytes, checksum."""
    (path,) = directory.iterdir()
    data, values, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        values += [(event.step, value) for value in event.summary.value]
        at += 16 + length
    return values


def test_runs_are_read_back(tmp_path):
    for i, lr in enumerate((1e-3, None)):
        write_run(
            tmp_path / "runs" / f"{i}",
            {"eval/a/loss": 0.5 + i, ACCURACY: 0.25},
            seed=i,
            optim__lr=lr,
            batch_size=8 * (i + 1),
            model__class_token=not i,
            model__size="d3",
        )
    output = tmp_path / "hparams"
    (output / "of an earlier table").mkdir(parents=True)
    write_hparams(read_runs([str(tmp_path / "runs")]), ["eval/a/loss", ACCURACY], output)
    assert {path.name for path in output.iterdir()} == {"0", "1"}
    for i in range(2):
        told = {value.tag: (step, value) for step, value in read_events(output / str(i))}
        plugin = {
            tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
            for tag, (_, value) in told.items()
            if tag.startswith("_hparams_")
        }
        fields = plugin["_hparams_/session_start_info"].session_start_info.hparams
        assert set(fields) == {"seed", "optim.lr", "batch_size", "model.class_token"}
        assert fields["seed"].number_value == i
        assert fields["batch_size"].number_value == 8 * (i + 1)
        assert fields["model.class_token"].bool_value == (not i)
        # Of one kind in all runs, since one of them has none.
        assert fields["optim.lr"].string_value == ("0.001", "none")[i]
        experiment = plugin["_hparams_/experiment"].experiment
        metrics = [metric.name.tag for metric in experiment.metric_infos]
        assert metrics == ["eval/a/loss", "probe/patch_6_linear/test/accuracy"]
        assert {x.name for x in experiment.hparam_infos} == set(fields)
        scores = [(told[tag][0], told[tag][1].simple_value) for tag in metrics]
        assert scores == [(10, 0.5 + i), (10, 0.25)]
        assert plugin["_hparams_/session_end_info"].session_end_info.status == 1  # success


def test_names_of_runs_stay_below_the_output(tmp_path, monkeypatch):
    for place in ("x/a", "y/b"):
        write_run(tmp_path / place, {"eval/a/loss": 0.5}, seed=len(place), batch_size=place)
    monkeypatch.chdir(tmp_path / "y")
    runs = read_runs(["../x/a", "b"])
    assert [run.name for run in runs] == ["x/a", "y/b"]
    write_hparams(runs, ["eval/a/loss"], tmp_path / "out" / "hparams")
    assert len(list((tmp_path / "out").rglob("events.out*"))) == 2
