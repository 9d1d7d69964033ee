"""The simulator: its data are realistic, its knob works, and the same flags give the same bytes."""

import dataclasses
import json

import numpy as np
import pytest
from nilearn.glm.first_level import spm_hrf
from sklearn.linear_model import LogisticRegression

from data_tools.convert.__main__ import main as convert
from data_tools.errors import InputError
from data_tools.readers.surfaces import read_surface_run
from data_tools.simulate.__main__ import main
from data_tools.simulate.brain import N_VERTICES, draw_group, draw_subject, mirror, smooth_fields
from data_tools.simulate.design import (
    CLIP_SECONDS,
    DESIGNS,
    condition_names,
    count_rounds,
    draw_events,
    haemodynamic_response,
)
from data_tools.simulate.runs import draw_run
from data_tools.simulate.study import Study
from data_tools.simulate.write_study import simulate, split_subjects
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.store.reader import Store

SMALL = Study(subjects=3, runs=1, rest_runs=1, frames=52, conditions=2)


def cortical_series(run) -> np.ndarray:
    """(T, X) standardised series of the vertices that hold data."""
    series = run.series[:, run.series.any(0)]
    return (series - series.mean(0)) / series.std(0)


def landmark_series(run) -> np.ndarray:
    """(T, landmarks) standardised series of some 300 vertices that are spread evenly.

    The first 162 vertices of each hemisphere are those of a coarser icosahedron; activity is
    smooth, so that they stand for what is around them.
    """
    series = run.series.reshape(len(run.series), 2, -1)[:, :, :162].reshape(len(run.series), -1)
    series = series[:, series.any(0)]
    return (series - series.mean(0)) / series.std(0)


def files_of(directory) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_same_flags_give_the_same_bytes_whatever_the_jobs(tmp_path):
    for jobs in (1, 2):
        simulate(SMALL, tmp_path / str(jobs), jobs=jobs)
    one, two = files_of(tmp_path / "1"), files_of(tmp_path / "2")
    assert one == two
    assert {"truth.npz", "truth.json", "train/store.json", "test/runs.jsonl"} <= set(one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_stores_hold_each_subject_once_with_events_and_traits(tmp_path):
    study = Study(subjects=5, runs=1, rest_runs=1, frames=50, tr=2.0, conditions=2)
    simulate(study, tmp_path / "set")
    stores = {name: Store(tmp_path / "set" / name) for name in ("train", "val", "test")}
    subjects = {name: {run["subject"] for run in s.runs} for name, s in stores.items()}
    assert [len(names) for names in subjects.values()] == [3, 1, 1]
    assert len(set.union(*subjects.values())) == 5
    for store in stores.values():
        assert store.tr == 1.0
        assert store.geometry.sha256() == standard_flat_map("fsaverage5").geometry.sha256()
        for run in store.runs:
            assert run["key"] == f"sub-{run['subject']}_task-{run['task']}_run-01"
            assert run["n_frames"] == 99  # the 98 seconds from the first frame to the last
            assert run["sex"] in "FM" and 18 <= run["age"] <= 80
            assert bool(run["events"]) == (run["task"] == "block")
            assert all(int(e["onset"]) + 16 <= run["n_frames"] for e in run["events"])
    with np.load(tmp_path / "set" / "truth.npz", allow_pickle=False) as truth:
        described = json.loads((tmp_path / "set" / "truth.json").read_text())["arrays"]
        assert set(truth.files) == set(described)
        assert truth["condition_patterns"].shape == (2, 2 * N_VERTICES)
        assert list(truth["split"]) == ["train"] * 3 + ["val", "test"]


@pytest.mark.parametrize("kind", ["gifti", "cifti"])
def test_trees_give_back_the_series_and_what_the_store_holds(tmp_path, kind):
    study = Study(subjects=3, runs=1, rest_runs=0, frames=56, conditions=2, tr=1.5)
    simulate(study, tmp_path / kind, kind=kind)
    run = draw_run(study, 1, "block", 1)
    stem = tmp_path / kind / "sub-002" / "func" / "sub-002_task-block_run-01"
    ending = {"gifti": "hemi-L_space-fsaverage5_bold.func.gii"}.get(
        kind, "space-fsaverage5_bold.dtseries.nii"
    )
    read = read_surface_run(f"{stem}_{ending}")
    assert read.tr == 1.5
    np.testing.assert_array_equal(np.concatenate([read.left, read.right], axis=1), run.series)

    lines = stem.with_name(f"{stem.name}_events.tsv").read_text().splitlines()
    assert lines[0] == "onset\tduration\ttrial_type"
    assert len(lines) == 1 + len(run.events)
    participants = (tmp_path / kind / "participants.tsv").read_text().splitlines()
    assert participants[0] == "participant_id\tage\tsex" and len(participants) == 4

    simulate(study, tmp_path / "stores")
    convert([f"--input={tmp_path / kind}", f"--output={tmp_path / 'converted'}", "--jobs=1"])
    converted, made = Store(tmp_path / "converted"), Store(tmp_path / "stores" / "val")
    np.testing.assert_array_equal(converted.read(1, 0, 83), made.read(0, 0, 83))
    for field in ("key", "subject", "task", "run", "tr", "source_tr", "events", "qc", "crc32"):
        assert converted.runs[1][field] == made.runs[0][field]
    assert converted.preprocessing == made.preprocessing


def accuracy(effect: float) -> float:
    """Of a linear classifier of condition: 6 subjects to train on, 3 others to test."""
    study = Study(subjects=9, runs=2, frames=160, conditions=2, effect=effect, seed=3)
    clips, labels, subjects = [], [], []
    for index in range(study.subjects):
        for number in (1, 2):
            run = draw_run(study, index, "block", number)
            series = landmark_series(run)
            for event in run.events:
                start = int(event["onset"])
                clips.append(series[start + 5 : start + 16].mean(0))
                labels.append(event["trial_type"])
                subjects.append(index)
    clips, labels, train = np.array(clips), np.array(labels), np.array(subjects) < 6
    model = LogisticRegression(C=1e-3, max_iter=200).fit(clips[train], labels[train])
    return model.score(clips[~train], labels[~train])


@pytest.mark.slow
def test_effect_moves_accuracy_from_chance_to_near_perfect():
    nothing, medium, strong = accuracy(0.0), accuracy(1.0), accuracy(4.0)
    assert 0.3 < nothing < 0.7  # 36 test clips of 2 classes: within 2.4 standard errors of 0.5
    assert nothing < medium < strong
    assert strong > 0.9


def test_effect_of_zero_leaves_no_trace_of_the_task():
    """The series is that of the same brain at rest: other conditions and timing change nothing."""
    block, event = (Study(frames=80, conditions=2, task=t, effect=0.0) for t in ("block", "event"))
    run = draw_run(block, 0, "block", 1)
    other = draw_run(event, 0, "block", 1)
    assert run.events != other.events
    np.testing.assert_array_equal(run.series, other.series)


def test_larger_studies_keep_what_smaller_ones_have():
    small, large = Study(subjects=1, frames=80, conditions=2), Study(frames=80, conditions=3)
    first, second = draw_subject(small, 0), draw_subject(large, 0)
    np.testing.assert_array_equal(first.networks, second.networks)
    np.testing.assert_array_equal(first.patterns, second.patterns[:2])
    rest = [draw_run(study, 0, "rest", 1) for study in (small, large)]
    np.testing.assert_array_equal(rest[0].series, rest[1].series)


def test_runs_of_a_subject_are_more_alike_than_those_of_others():
    study = Study(subjects=4, runs=1, frames=200)
    connectomes = []
    for task in ("rest", "block"):
        for index in range(4):
            run = draw_run(study, index, task, 1)
            correlation = np.corrcoef(landmark_series(run).T)
            connectomes.append(correlation[np.triu_indices(len(correlation), 1)])
    similar = np.corrcoef(connectomes)[:4, 4:]
    assert (similar.argmax(1) == np.arange(4)).all()  # identified from rest to task
    assert np.diag(similar).mean() > similar[~np.eye(4, dtype=bool)].mean() + 0.05


def test_series_look_like_cortex():
    run = draw_run(Study(), 0, "rest", 1)
    series = cortical_series(run)
    lag = (series[1:] * series[:-1]).mean()
    assert 0.55 < lag < 0.85  # at a TR of 1 s, lightly smoothed surface data
    power = (np.abs(np.fft.rfft(series, axis=0)) ** 2).mean(1)
    band = np.fft.rfftfreq(len(series), 1.0)
    assert power[(band >= 0.01) & (band <= 0.1)].sum() > 0.6 * power.sum()

    left, right = np.split(run.series, 2, axis=1)
    left = left[:, mirror()]
    both = left.any(0) & right.any(0)
    pairs = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in np.flatnonzero(both)[::20]]
    assert 0.35 < np.mean(pairs) < 0.75

    # The percent signal change of 3 T, on a mean image in scanner units.
    mean, std = run.series[:, run.series.any(0)].mean(0), run.series[:, run.series.any(0)].std(0)
    assert 5_000 < mean.mean() < 20_000 and 0.005 < np.median(std / mean) < 0.02


def test_traits_move_the_coupling_and_only_when_asked():
    loud, silent = Study(trait_effect=1.0), Study(trait_effect=0.0)
    assert np.abs(draw_subject(loud, 0).mixing - draw_subject(silent, 0).mixing).max() > 0.05
    sexes = [draw_subject(silent, index).sex for index in range(6)]
    assert sexes.count("F") == 3
    np.testing.assert_array_equal(draw_group(loud).loadings, draw_group(silent).loadings)


def test_fields_are_smooth_bilateral_and_standardised():
    fields = smooth_fields(np.random.default_rng(0), 8, fwhm=30, bilateral=0.8)
    halves = fields.reshape(8, 2, N_VERTICES)
    np.testing.assert_allclose(halves.std(-1), 1, atol=1e-3)
    across = (halves[:, 0, mirror()] * halves[:, 1]).mean()
    assert 0.7 < across < 0.9


@pytest.mark.parametrize("task", DESIGNS)
@pytest.mark.parametrize("seconds", [150.0, 239.0, 700.3])
def test_designs_are_balanced_and_fit_the_run(task, seconds):
    design, names = DESIGNS[task], condition_names(4)
    for seed in range(20):
        events = draw_events(np.random.default_rng(seed), design, names, seconds)
        kinds = [event["trial_type"] for event in events]
        assert {kinds.count(name) for name in names} == {count_rounds(design, 4, seconds)}
        onsets = np.array([event["onset"] for event in events])
        ends = onsets + [event["duration"] for event in events]
        assert onsets[0] >= design.lead - 0.1
        assert (onsets[1:] - ends[:-1] >= design.gap - 0.11).all()
        assert onsets[-1] + CLIP_SECONDS <= seconds and ends[-1] <= seconds


def test_response_is_the_canonical_one():
    ours = haemodynamic_response(np.arange(0.0, 32.0, 0.1))
    theirs = spm_hrf(1.0, oversampling=10)
    np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=1e-3)


def test_every_split_gets_a_subject():
    for n in range(3, 30):
        for shares in ((0.6, 0.2, 0.2), (1, 0, 0), (0, 1, 1), (0.98, 0.01, 0.01)):
            parts = list(split_subjects(n, shares).values())
            assert all(parts) and [i for part in parts for i in part] == list(range(n))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--subjects=2"], "--subjects=3"),
        (["--subjects=0"], "--subjects"),
        (["--frames=15"], "--frames"),
        (["--frames=60"], "too short to show each of 4 conditions"),
        (["--conditions=1"], "--conditions"),
        (["--effect=-1"], "--effect"),
        (["--effect=nan"], "--effect"),
        (["--tr=720"], "--tr=720"),
        (["--seed=-1"], "--seed"),
        (["--runs=0", "--rest-runs=0"], "--runs"),
        (["--splits=a,b"], "--splits"),
        (["--splits=0.5,0.5"], "--splits"),
        (["--jobs=0"], "--jobs"),
    ],
)
def test_senseless_flags_are_refused_in_one_sentence(tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as end:
        main([f"--output={tmp_path / 'set'}", *flags])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_only_an_earlier_simulation_is_replaced(tmp_path, capsys):
    study = Study(subjects=1, runs=0, rest_runs=1, frames=20)
    simulate(study, tmp_path / "set", kind="cifti")
    made = (tmp_path / "set" / "truth.json").stat().st_mtime_ns
    simulate(study, tmp_path / "set", kind="cifti")  # as after a kill when all was done
    assert "set is there already, made with the same flags" in capsys.readouterr().out
    assert (tmp_path / "set" / "truth.json").stat().st_mtime_ns == made
    with pytest.raises(InputError, match="--overwrite"):
        simulate(dataclasses.replace(study, seed=1), tmp_path / "set", kind="cifti")
    flags = "--overwrite --subjects=2 --runs=0 --frames=20 --format=cifti --jobs=1".split()
    main([f"--output={tmp_path / 'set'}", *flags])
    assert (tmp_path / "set" / "sub-002").is_dir()
    assert "truth" in capsys.readouterr().out

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        simulate(study, tmp_path / "thesis", overwrite=True)
