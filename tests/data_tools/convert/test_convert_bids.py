"""fMRIPrep trees: what belongs to a run is found, denoising is recorded, people stay unnamed."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from data_tools.convert import conversion
from data_tools.convert.__main__ import main
from data_tools.convert.beside import read_sidecar_tr
from data_tools.convert.convert_command import _check_fields
from data_tools.convert.pseudonyms import read_salt
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases import bids_files
from data_tools.convert.releases.bids import describe_runs, find_runs
from data_tools.errors import InputError
from data_tools.inspect.__main__ import main as inspect
from data_tools.store.reader import Store
from tests.data_tools.convert.test_convert import _interrupt, convert, fails, smooth_run, write_pair
from tests.data_tools.readers.surface_files import write_gifti, write_mgz
from tests.data_tools.simulate.simulated_trees import simulated_tree, study_of


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return simulated_tree(tmp_path_factory, "fmriprep")


def test_what_belongs_to_a_run_is_found(tree):
    runs = find_runs([tree])
    study = study_of("fmriprep")
    assert len(runs) == study.subjects * (study.runs + study.rest_runs)
    for run in runs:
        assert run.path.name == f"{run.key}_space-fsLR_den-91k_bold.dtseries.nii"
        assert run.confounds.name == f"{run.key}_desc-confounds_timeseries.tsv"
        assert run.sidecar_tr[0].name == run.path.name.replace(".dtseries.nii", ".json")
        assert {"subject", "task", "run", "age", "sex", "site", "diagnosis"} <= run.fields.keys()
        if run.fields["task"] == "rest":
            assert run.read_events is None
        else:  # in the raw dataset, not beside the derivative
            assert {e["trial_type"] for e in run.read_events()} == {"faces", "places"}


@pytest.fixture(scope="module")
def stores(tree, tmp_path_factory):
    """Two stores of one subject: as it is; denoised, with pseudonyms."""
    root = tmp_path_factory.mktemp("stores")
    salt = root / "salt"
    salt.write_bytes(bytes(range(32)))
    source = f"--input={tree}/derivatives/fmriprep/sub-001"
    convert(source, f"--output={root / 'plain'}", "--restricted=age,site")
    flags = ("--confounds=motion6,global_signal", "--lowpass=0.3", "--drop-dummies=auto")
    convert(source, f"--output={root / 'clean'}", *flags, f"--pseudonymise={salt}")
    return root


def test_denoising_is_done_and_recorded(stores):
    plain, clean = Store(stores / "plain"), Store(stores / "clean")
    assert plain.geometry.space == "flat-fsLR-32k"
    for name, value in (
        ("confounds", ["motion6", "global_signal"]),
        ("lowpass", 0.3),
        ("highpass", None),
        ("drop_dummies", "auto"),
    ):
        assert clean.preprocessing[name] == value and not plain.preprocessing[name]
    mask = plain.geometry.patch_mask
    for i, line in enumerate(plain.runs):
        other = next(run for run in clean.runs if run["key"].split("_", 1)[1:] == [line["key"][8:]])
        j = clean.runs.index(other)
        assert {"fd_mean", "fd_max", "global_signal_mean", "global_spikes"} <= line["qc"].keys()
        scanned = line["confounds"]["framewise_displacement"]
        assert scanned[0] is None and max(scanned[1:]) == line["qc"]["fd_max"]
        assert len(scanned) == study_of("fmriprep").frames_at(line["source_tr"])
        # The bright first frame dominates its run unless it is left out.
        first = np.abs(plain.read(i, 0, 1)[0][mask].astype(float)).mean()
        assert first > 3 > np.abs(clean.read(j, 0, 1)[0][mask].astype(float)).mean()
        # The regressed global signal has left with its share of the variance.
        before, after = (
            store.read(run, first, 20)[:, mask].mean(1, dtype=float).std()
            for store, run, first in ((plain, i, 1), (clean, j, 0))
        )
        assert after < 0.3 * before


def test_events_move_with_the_first_frame(stores):
    plain, clean = Store(stores / "plain"), Store(stores / "clean")
    for line in plain.runs:
        other = next(run for run in clean.runs if run["key"].split("_", 1)[1] == line["key"][8:])
        if line.get("events"):
            shift = {
                round(a["onset"] - b["onset"], 6)
                for a, b in zip(line["events"], other["events"], strict=True)
            }
            assert shift == {line["source_tr"]}


def test_pseudonyms_hide_people(stores, tree, tmp_path, capsys):
    text = "".join(p.read_text() for p in (stores / "clean").glob("*.json*"))
    assert not re.search(r"sub-001|\"001\"", text) and str(tree) not in text
    pseudonym = read_salt(stores / "salt").subject("001")
    assert {run["subject"] for run in Store(stores / "clean").runs} == {pseudonym}
    assert f"{pseudonym}_task-rest_run-01" in text and pseudonym != "001"
    # Not in what is said of runs that fail, either.
    left, right = smooth_run(n_frames=20)
    write_pair(tmp_path, (left, right), "sub-anna_task-x")
    write_pair(tmp_path, (left * 0, right * 0), "sub-bert_task-x")
    output = tmp_path / "out" / "store"
    convert(f"--input={tmp_path}", f"--output={output}", f"--pseudonymise={stores / 'salt'}")
    said = capsys.readouterr()
    assert "is constant in time everywhere" in said.err
    assert "bert" not in said.err + said.out + (output / "skipped.jsonl").read_text()
    for salt, words in ((tmp_path / "none", "There is no salt"), (tmp_path / "s", "guessed")):
        (tmp_path / "s").write_bytes(b"short")
        other = tmp_path / "out" / "other"
        assert words in fails(capsys, other, f"--input={tmp_path}", f"--pseudonymise={salt}")


def test_restricted_columns_are_not_shown(stores, tmp_path, capsys):
    store = Store(stores / "plain")
    assert store.restricted == {"age", "site"} and "age" in store.runs[0]
    with pytest.raises(InputError, match="No run has a field 'Age' to restrict"):
        _check_fields(["Age"], [RunFiles("a", Path("a"), {"age": 3})])
    inspect([str(stores / "plain"), f"--report={tmp_path / 'report'}"])
    shown = capsys.readouterr().out + (tmp_path / "report" / "index.html").read_text()
    assert store.runs[0]["diagnosis"] in shown and store.runs[0]["site"] not in shown


def test_tr_of_header_and_sidecar(tmp_path, capsys):
    left, right = smooth_run(n_frames=20)
    write_pair(tmp_path, (left, right), "sub-01_task-x", tr_ms=1000.0)
    sidecar = tmp_path / "task-x_bold.json"
    source, output = f"--input={tmp_path}", tmp_path / "out" / "store"
    output.parent.mkdir()
    for text, words in (
        ('{"RepetitionTime": 2.0}', "says a TR of 1 s and its sidecar or release 2 s"),
        ("{", "is no JSON"),
    ):
        sidecar.write_text(text)
        assert words in fails(capsys, output, source)
    sidecar.write_text('{"RepetitionTime": 2.0}')
    convert(source, f"--output={output}", "--tr=2")
    assert Store(output).runs[0]["source_tr"] == 2.0
    # One that was not fetched does not stop a run whose header says enough.
    sidecar.unlink()
    sidecar.symlink_to(tmp_path / "nowhere")
    convert(source, f"--output={output}", "--overwrite")
    assert Store(output).runs[0]["source_tr"] == 1.0
    assert "this sidecar was not read: " in capsys.readouterr().err
    sidecar.unlink()
    sidecar.write_text('{"RepetitionTime": 2.0}')
    # A sidecar tells what a silent header does not; one in milliseconds is found out.
    write_pair(tmp_path, (left, right), "sub-01_task-x", tr_ms=0.0)
    convert(source, f"--output={output}", "--overwrite")
    assert Store(output).runs[0]["source_tr"] == 2.0
    sidecar.write_text('{"RepetitionTime": 2000}')
    assert "is 2000 s, where 0.05 to 20 s" in fails(capsys, tmp_path / "out" / "b", source)


def test_events_outside_of_the_run(tmp_path, capsys):
    write_pair(tmp_path, smooth_run(n_frames=20), "sub-01_task-x", tr_ms=1000.0)
    table, output = tmp_path / "sub-01_task-x_events.tsv", tmp_path / "out" / "store"
    output.parent.mkdir()
    head = "onset\tduration\n"
    table.write_text(f"{head}2000\t1\n4000\t1\n6\t1\n")
    error = fails(capsys, output, f"--input={tmp_path}")
    assert "2 of its 3 events are outside of it, such as one at 4000 s" in error
    table.write_text(f"{head}-1\t1\n4\tn/a\n6\t1\n20\t1\nn/a\t1\n")
    convert(f"--input={tmp_path}", f"--output={output}")
    (run,) = Store(output).runs
    assert [event["onset"] for event in run["events"]] == [4, 6]
    assert (run["qc"]["events_outside"], run["qc"]["events_without_onset"]) == (2, 1)
    assert "sub-01_task-x: left out 3 of 5 events" in capsys.readouterr().err
    table.write_text("")
    assert "no rows and no header" in fails(capsys, tmp_path / "b", f"--input={tmp_path}")


def test_names_that_are_not_utf8_are_refused(tmp_path, capsys):
    write_pair(tmp_path, smooth_run(n_frames=20), os.fsdecode(b"sub-M\xfcller_task-x"), 1000.0)
    error = fails(capsys, tmp_path / "store", f"--input={tmp_path}")
    assert "sub-M\\xfcller_task-x_hemi-L_bold.func.gii' is not UTF-8: rename it" in error


def test_a_raw_dataset_elsewhere_and_a_given_table(tmp_path):
    run = tmp_path / "out" / "sub-01" / "ses-a" / "func" / "sub-01_ses-a_task-x_bold.dtseries.nii"
    raw = tmp_path / "raw" / "sub-01" / "ses-a" / "func"
    for folder in (run.parent, raw):
        folder.mkdir(parents=True)
    run.touch()
    (raw / "sub-01_ses-a_task-x_events.tsv").write_text("onset\tduration\n3\t1\n")
    (raw / "sub-01_ses-b_task-x_events.tsv").write_text("onset\tduration\n9\t1\n")
    (tmp_path / "raw" / "task-x_bold.json").write_text('{"RepetitionTime": 1.5}')
    (tmp_path / "raw" / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    (tmp_path / "later.tsv").write_text("participant_id\tscore\n01\t7\n")
    (alone,) = find_runs([tmp_path / "out"])
    assert alone.read_events is None and read_sidecar_tr(alone) is None
    (found,) = find_runs([str(tmp_path / "o*")], raw=tmp_path / "raw")
    assert found.read_events() == [{"onset": 3, "duration": 1}] and read_sidecar_tr(found) == 1.5
    assert found.fields == {"subject": "01", "session": "a", "task": "x", "age": 30}
    (found,) = find_runs([run], tmp_path / "later.tsv", tmp_path / "raw")
    assert found.fields["score"] == 7 and "age" not in found.fields
    assert describe_runs([alone, found]).startswith("Runs found: 2; with events: 1, ")


def test_duplicates_are_skipped_and_others_go_on(tmp_path, capsys):
    sides = smooth_run(n_frames=20)
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        write_pair(tmp_path / folder, sides, f"sub-0{1 if folder < 'c' else 2}_task-x")
    convert(f"--input={tmp_path}", f"--output={tmp_path / 'store'}")
    assert [run["key"] for run in Store(tmp_path / "store").runs] == ["sub-02_task-x"]
    skipped = (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"][0] for line in skipped] == ["a", "b"]
    assert "2 runs have the name sub-01_task-x: rename them" in skipped[0]


def test_shards_merge_to_the_whole(tmp_path, capsys):
    from data_tools.merge import main as merge

    (tmp_path / "in").mkdir()
    for i in range(4):
        write_pair(tmp_path / "in", smooth_run(i, 20), f"sub-{i:02d}_task-x", tr_ms=1000.0)
    write_pair(tmp_path / "in", [np.zeros((20, 10242), np.float32)] * 2, "sub-09_task-x")
    source = f"--input={tmp_path / 'in'}"
    convert(source, f"--output={tmp_path / 'whole'}")
    for i in range(2):
        convert(source, f"--output={tmp_path / f'part{i}'}", f"--shard={i}/2")
    # A part is missed, one without a good run is not.
    convert(source, f"--output={tmp_path / 'bad'}", "--shard=4/5")
    assert not (tmp_path / "bad" / "store.json").exists()
    with pytest.raises(SystemExit):
        merge([str(tmp_path / "part0"), str(tmp_path / "bad"), f"--output={tmp_path / 'half'}"])
    error = capsys.readouterr().err
    assert "Not among the parts: shard 1/2, 0/5, 1/5, 2/5, 3/5;" in error
    merge([*(str(tmp_path / f"part{i}") for i in (1, 0)), f"--output={tmp_path / 'merged'}"])
    whole, merged = (
        {p.relative_to(d): p.read_bytes() for p in sorted(d.rglob("*")) if p.is_file()}
        for d in (tmp_path / "whole", tmp_path / "merged")
    )
    assert whole == merged and len(whole) == 6
    for i in range(5):
        convert(source, f"--output={tmp_path / f'fifth{i}'}", f"--shard={i}/5")
    merge([*(str(tmp_path / f"fifth{i}") for i in range(5)), f"--output={tmp_path / 'again'}"])
    assert (tmp_path / "again" / "skipped.jsonl").read_bytes() == whole[Path("skipped.jsonl")]
    assert (tmp_path / "again" / "store.json").read_bytes() == whole[Path("store.json")]


def test_dry_run_writes_nothing(tmp_path, capsys):
    write_pair(tmp_path, smooth_run(n_frames=40), "sub-01_task-x", tr_ms=1400.0)
    write_gifti(tmp_path / "sub-02_task-x_hemi-L_bold.func.gii", np.zeros((9, 10242), np.float32))
    before = sorted(tmp_path.iterdir())
    convert(f"--input={tmp_path}", f"--output={tmp_path / 'store'}", "--dry-run")
    out = capsys.readouterr().out
    assert "sub-01_task-x  55 frames  10.2 MB" in out
    assert "sub-02_task-x  cannot be converted: " in out and "no right hemisphere" in out
    assert "would hold 1 runs, 55 frames, 10.2 MB; free there: " in out
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_run_or_cannot_be_read_harms_nobody(tmp_path, capsys):
    tree, sides = tmp_path / "in", smooth_run(n_frames=20)
    for subject in ("01", "02"):
        (tree / f"sub-{subject}" / "func").mkdir(parents=True)
        write_pair(tree / f"sub-{subject}" / "func", sides, f"sub-{subject}_task-x", 1000.0)
    # FreeSurfer's files have hemispheres too, and of a tree that is not fetched links lead nowhere.
    anatomy = tree / "sourcedata" / "freesurfer" / "sub-01" / "mri"
    anatomy.mkdir(parents=True)
    write_mgz(anatomy / "lh.ribbon.mgz", sides[0][:1])
    confounds = tree / "sub-02" / "func" / "sub-02_task-x_desc-confounds_timeseries.tsv"
    confounds.symlink_to(tmp_path / "nowhere")
    (tree / "sub-01" / "func" / "sub-01_task-x_timeseries.tsv").write_text("roi1\n1\n")
    (tree / "participants.tsv").write_text("participant_id\tmean\nsub-01\t3\n")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t99\n")
    convert(f"--input={tree}", f"--output={tmp_path / 'store'}")
    (run,) = Store(tmp_path / "store").runs
    assert run["participant_mean"] == 3 and "age" not in run and "confounds" not in run
    skipped = (tmp_path / "store" / "skipped.jsonl").read_text()
    assert skipped.count("\n") == 1 and f"{confounds.name} does not exist" in skipped


def test_resumed_with_another_table_is_as_if_uninterrupted(tmp_path, monkeypatch, capsys):
    for subject in ("01", "02"):
        write_pair(tmp_path, smooth_run(n_frames=20), f"sub-{subject}_task-x", 1000.0)
    source, output = f"--input={tmp_path}", tmp_path / "out" / "store"
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(conversion, "finish_store", _interrupt)
        convert(source, f"--output={output}", "--dataset=one")
    convert(source, f"--output={output}", "--dataset=two")
    assert [run["dataset"] for run in Store(output).runs] == ["two", "two"]


def test_dask_gives_the_same_bytes(tmp_path, capsys):
    from distributed import LocalCluster

    (tmp_path / "in").mkdir()
    for i in range(3):
        write_pair(tmp_path / "in", smooth_run(i, 20), f"sub-{i:02d}_task-x", tr_ms=1000.0)
    source = f"--input={tmp_path / 'in'}"
    convert(source, f"--output={tmp_path / 'one'}")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        main([source, f"--output={tmp_path / 'two'}", f"--dask={cluster.scheduler_address}"])
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert one.runs == two.runs
    output = tmp_path / "out" / "store"
    output.parent.mkdir()
    error = fails(capsys, output, source, "--dask=tcp://127.0.0.1:9")
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in error


def test_other_spaces_are_told_what_to_do(tmp_path, capsys):
    output = tmp_path / "out" / "store"
    output.parent.mkdir()
    for name in ("sub-1_task-x_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",):
        (tmp_path / name).touch()
    assert "--cifti-output 91k" in fails(capsys, output, f"--input={tmp_path}")
    for side in "LR":
        path = tmp_path / f"sub-1_task-x_hemi-{side}_space-fsLR_den-59k_bold.func.gii"
        write_gifti(path, np.zeros((17, 59292), np.float32), 1000.0)
    error = fails(capsys, output, f"--input={tmp_path}")
    assert "are on fsLR-59k" in error and "wb_command -cifti-resample" in error
    with pytest.raises(InputError, match="Line 3 of .* listed before"):
        (tmp_path / "participants.tsv").write_text("participant_id\nsub-1\n1\n")
        find_runs([tmp_path])


def test_participants_are_found_however_they_are_written(tmp_path, capsys):
    for subject in ("01", "NDARINV7", "anna"):
        (tmp_path / f"sub-{subject}_task-x_bold.dtseries.nii").touch()
    table = tmp_path / "participants.tsv"
    table.write_text('participant_id\tsite\n1\t"1_1\nNDAR_INV7\t007\nAnna\t12\n')
    runs = find_runs([tmp_path])
    assert [run.fields.get("site") for run in runs] == ['"1_1', "007", None]
    said = capsys.readouterr().out
    assert "1 of 3, 1 of which differ from a row in case only, such as anna." in said
    table.write_text("participant_id\tsite\n01\tx\n9\t1\n")
    with pytest.raises(InputError, match="2 of 3, such as NDARINV7, anna: write them"):
        find_runs([tmp_path], table)
    table.write_text("participant_id\tsite\n01\tx\nsub-1\ty\n")
    with pytest.raises(InputError, match="Line 3 of .* listed before"):
        find_runs([tmp_path])


@pytest.mark.parametrize("flat", [True, False])
def test_a_tree_is_searched_in_linear_time(tmp_path, monkeypatch, flat):
    """Names are compared a number of times that grows as their own, also of files in one folder."""
    calls, real = [], bids_files.compared_entities
    monkeypatch.setattr(bids_files, "compared_entities", lambda name: calls.append(1) or real(name))
    counts = []
    for n in (20, 80):
        root = tmp_path / str(n)
        for i in range(n):
            folder = root if flat else root / f"sub-{i:03d}" / "func"
            folder.mkdir(parents=True, exist_ok=True)
            for ending in ("space-fsLR_den-91k_bold.dtseries.nii", "events.tsv", "bold.json"):
                (folder / f"sub-{i:03d}_task-rest_{ending}").touch()
        for inputs in ([root], sorted(root.rglob("*.nii"))):
            calls.clear()
            found = find_runs(inputs)
            assert len(found) == n
            assert [run.sidecar_tr[0].name[:7] for run in found] == [x.key[:7] for x in found]
            counts.append(len(calls))
    assert all(after <= 4.5 * before for before, after in zip(counts[:2], counts[2:], strict=True))
