"""What lies beside a run: found by names as BIDS compares them, read, and placed in time."""

import json

import numpy as np
import pytest

from data_tools.convert.beside import read_beside
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases.bids import find_runs
from data_tools.errors import InputError
from data_tools.store.reader import Store
from tests.data_tools.convert.test_convert import convert, fails, smooth_run, write_pair

EVENTS = "onset\tduration\ttrial_type\n"


@pytest.fixture(scope="module")
def sides():
    return smooth_run(n_frames=24)


def put(root, **files):
    """Writes files by path, and gives the runs of the derivatives among them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
    return find_runs([root / "derivatives"])


def derived(name):
    return f"derivatives/fmriprep/sub-1/func/sub-1_{name}"


def raw(name):
    return f"sub-1/func/sub-1_{name}"


def labels(run):
    return run.read_events and [event["trial_type"] for event in run.read_events()]


def test_the_number_of_a_run_compares_as_a_number(tmp_path):
    files = {"task-x_events.tsv": f"{EVENTS}0\t1\ttemplate\n", "task-x_bold.json": {}}
    for i in (1, 2):
        files |= {
            derived(f"task-x_run-{i}_space-fsLR_den-91k_bold.dtseries.nii"): "",
            derived(f"task-x_run-{i}_space-fsLR_den-91k_bold.dtseries.json"): {"StartTime": i / 2},
            raw(f"task-x_run-0{i}_events.tsv"): f"{EVENTS}0\t1\trun {i}\n",
            raw(f"task-x_run-0{i}_bold.json"): {"RepetitionTime": float(i)},
        }
    runs = put(tmp_path, **files)
    assert [labels(run) for run in runs] == [["run 1"], ["run 2"]]
    beside = [read_beside(run) for run in runs]
    assert [(x.tr, x.start) for x in beside] == [(1.0, 0.5), (2.0, 1.0)]
    assert runs[0].key == "sub-1_task-x_run-1" == RunFiles("sub-1_task-x_run-01", None).identity
    # The layout with the raw data in a folder of its own.
    for path in (tmp_path / "sub-1", tmp_path / "task-x_events.tsv"):
        (tmp_path / "rawdata").mkdir(exist_ok=True)
        path.rename(tmp_path / "rawdata" / path.name)
    assert [labels(run) for run in put(tmp_path)] == [["run 1"], ["run 2"]]


def test_a_number_that_was_dropped(tmp_path):
    files = {derived("task-x_bold.dtseries.nii"): "", "task-x_events.tsv": f"{EVENTS}0\t1\tt\n"}
    files |= {raw("task-x_run-1_events.tsv"): f"{EVENTS}0\t1\tone\n"}
    files |= {raw("task-x_run-1_echo-1_bold.json"): {"RepetitionTime": 2}}
    (run,) = put(tmp_path, **files)
    assert labels(run) == ["one"] and read_beside(run).tr == 2
    (run,) = put(tmp_path, **{raw("task-x_run-2_events.tsv"): f"{EVENTS}0\t1\ttwo\n"})
    with pytest.raises(InputError, match="run-1_events.tsv and .*run-2_events.tsv both fit"):
        read_beside(run)
    (run,) = put(tmp_path, **{derived("task-x_events.tsv"): f"{EVENTS}0\t1\tboth\n"})
    assert labels(run) == ["both"] and read_beside(run).tr == 2


def test_a_number_of_another_run_is_no_dropped_one(tmp_path):
    files = {derived(f"task-x{x}_bold.dtseries.nii"): "" for x in ("", "_run-2")}
    first, second = put(tmp_path, **files, **{raw("task-x_run-02_events.tsv"): EVENTS})
    assert first.read_events is None and second.read_events is not None


def test_tables_of_one_run_are_inherited_by_no_other(tmp_path):
    files = {derived(f"task-x_run-{i}_bold.dtseries.nii"): "" for i in (1, 2)}
    files |= {derived("task-x_desc-confounds_timeseries.tsv"): "csf\n1\n"}
    files |= {derived("task-x_run-02_desc-confounds_regressors.tsv"): "csf\n1\n"}
    first, second = put(tmp_path, **files)
    assert first.confounds is None and second.confounds.name.endswith("regressors.tsv")
    name = derived("task-x_run-2_desc-confounds_timeseries.tsv")
    assert "both fit" in put(tmp_path, **{name: "csf\n2\n"})[1].fault


def test_frames_are_later_than_the_start_of_the_scan(tmp_path, sides, capsys):
    write_pair(tmp_path, sides, "sub-1_task-x", 2000.0)
    (tmp_path / "sub-1_task-x_events.tsv").write_text(f"{EVENTS}0\t1\ta\n10\t1\tb\n")
    sidecar, output = tmp_path / "sub-1_task-x_bold.json", tmp_path / "out" / "store"
    output.parent.mkdir()
    corrected = {"SliceTimingCorrected": True}
    for content, start in (
        ({"StartTime": 0.75} | corrected, 0.75),
        ({"SliceTiming": [0.0, 0.5, 1.0, 1.5]} | corrected, 0.75),
        ({"SliceTiming": [0.0, 0.5, 1.0, 1.5]}, None),
        ({"VolumeTiming": (0.75 + 2 * np.arange(24)).tolist()}, 0.75),
    ):
        sidecar.write_text(json.dumps(content))
        beside = read_beside(find_runs([tmp_path])[0])
        assert beside.start == (start or 0) and beside.remark is None
    convert(f"--input={tmp_path}", f"--output={output}", "--seconds=4:")
    (run,) = Store(output).runs
    assert [e["onset"] for e in run["events"]] == [5.25] and run["start_time"] == 0.75
    assert "times of their frames (start_time): 1" in capsys.readouterr().out
    sidecar.write_text(json.dumps(corrected))
    convert(f"--input={tmp_path}", f"--output={output}", "--overwrite")
    assert [e["onset"] for e in Store(output).runs[0]["events"]] == [0, 10]
    assert "sub-1_task-x: no sidecar gives the time" in capsys.readouterr().err


def test_frames_that_are_not_equally_spaced_are_refused(tmp_path, sides, capsys):
    write_pair(tmp_path, sides, "sub-1_task-x", 2000.0)
    sidecar, output = tmp_path / "sub-1_task-x_bold.json", tmp_path / "out" / "store"
    output.parent.mkdir()
    times = 2.0 * np.arange(24)
    for content, words in (
        ({"VolumeTiming": (times + 5 * (times > 20)).tolist()}, "has frames 2 to 7 s apart"),
        ({"VolumeTiming": times.tolist(), "RepetitionTime": 3}, "apart and a TR of 3 s"),
        ({"VolumeTiming": [0]}, "VolumeTiming in .*bold.json is no list of numbers"),
        ({"RepetitionTime": "2.0"}, "RepetitionTime in .*bold.json is no number"),
        ([2.0], "bold.json is damaged .it holds no JSON object"),
    ):
        sidecar.write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            read_beside(find_runs([tmp_path])[0])
    assert "holds no JSON object" in fails(capsys, output, f"--input={tmp_path}", "--dry-run")
    sidecar.unlink()
    outliers = tmp_path / "sub-1_task-x_outliers.tsv"
    outliers.write_text("framewise_displacement\n" + "0\n" * 23 + "1\n")
    convert(f"--input={tmp_path}", f"--output={output}", "--dry-run")
    outliers.write_text("framewise_displacement\n" + "0\n" * 23 + "1\n1\n")
    for flags in ([], ["--dry-run"]):
        error = fails(capsys, output, f"--input={tmp_path}", *flags)
        assert "24 frames" in error and "outliers.tsv has 25 rows" in error


def test_a_dry_run_reads_the_tables(tmp_path, sides, capsys):
    for subject in (1, 2):
        write_pair(tmp_path, sides, f"sub-{subject}_task-x", 2000.0)
    events, table = (tmp_path / f"sub-1_task-x_{x}.tsv" for x in ("events", "desc-confounds_x"))
    table = table.with_name("sub-1_task-x_desc-confounds_timeseries.tsv")
    output = tmp_path / "out" / "store"
    output.parent.mkdir()
    source, good = f"--input={tmp_path}/sub-1*", "csf\n" + "1\n2\n" * 12
    for path, text, words, *flags in (
        (events, f"{EVENTS}x\t1\ta\n", "events.tsv"),
        (events, f"{EVENTS}900\t1\ta\n", "1 of its 1 events are outside"),
        (table, "csf\n1\n", "has 1 rows and"),
        (table, good, "no column 'trans_x'", "--confounds=motion6"),
        (table, good, "'outlier*' matches no column in the tables", "--confounds=csf,outlier*"),
        (table, good, "too few to filter", "--highpass=0.01"),
    ):
        path.write_text(text)
        for more in ([], ["--dry-run"])[path == events :]:
            assert words in fails(capsys, output, source, *flags, *more)
        path.unlink()
    # Of several runs those that cannot be converted are listed; it fails if none is left.
    both = f"--input={tmp_path}"
    events.write_text(f"{EVENTS}x\t1\ta\n")
    convert(both, f"--output={output}", "--dry-run")
    assert "Runs that cannot be converted: 1." in capsys.readouterr().out
    assert "events.tsv" in fails(capsys, output, both, "--dry-run", "--strict")
    flags = ("--dry-run", "--confounds=csf")
    assert "None of the 2 runs could be converted; the first" in fails(capsys, output, both, *flags)
    events.unlink()
    write_pair(tmp_path, sides, "sub-2_task-x", 1000.0)
    convert(both, f"--output={output}", "--dry-run", "--target-tr=0")
    assert "store one of 2 s" in capsys.readouterr().out
    output.mkdir()
    (output / "a").touch()
    assert "exists already" in fails(capsys, output, both, "--dry-run")
