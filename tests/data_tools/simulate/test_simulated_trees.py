"""Simulated trees have the names, layouts and tables of real releases; sites, motion and labels."""

import csv
import functools
import json
import zipfile

import nibabel
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from data_tools.errors import InputError
from data_tools.simulate.__main__ import main
from data_tools.simulate.brain import cortex, draw_traits
from data_tools.simulate.motion import PARAMETERS, draw_motion
from data_tools.simulate.people import draw_person
from data_tools.simulate.runs import draw_run, draw_site
from data_tools.simulate.study import Study
from data_tools.simulate.trees.bids_tree import SETTLING
from data_tools.simulate.trees.hcp_tree import MERGED_RETINOTOPY, acquisition, write_tables
from data_tools.simulate.write_study import simulate
from data_tools.spaces.standard_maps import nearest_fsaverage5, standard_cortex
from data_tools.store.reader import Store
from tests.data_tools.simulate.simulated_trees import STUDY, simulated_tree, study_of


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return functools.partial(simulated_tree, tmp_path_factory)


def read_table(path, delimiter="\t") -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def read_dtseries(source) -> tuple[np.ndarray, float]:
    """(T, 59412) cortex and TR of a CIFTI, given as a path or as bytes; its layout is checked."""
    load = nibabel.Cifti2Image.from_bytes if isinstance(source, bytes) else nibabel.load
    image = load(source)
    time, space = (image.header.get_axis(i) for i in range(2))
    models = [(name, len(model)) for name, _, model in space.iter_structures()]
    assert models[:2] == [
        ("CIFTI_STRUCTURE_CORTEX_LEFT", 29696),
        ("CIFTI_STRUCTURE_CORTEX_RIGHT", 29716),
    ]
    assert len(models) > 2 and space.volume_shape == (91, 109, 91)
    assert set(space.nvertices.values()) == {32492}
    assert time.unit == "SECOND" and image.get_data_dtype() == np.float32
    return np.asarray(image.dataobj)[:, : 29696 + 29716], time.step


def on_fslr(run) -> np.ndarray:
    return run.series[:, nearest_fsaverage5()[np.concatenate(standard_cortex("fsLR-32k"))]]


def test_fmriprep_tree_is_a_raw_dataset_with_derivatives(tree):
    root, study = tree("fmriprep"), study_of("fmriprep")
    derived = root / "derivatives" / "fmriprep"
    kinds = [json.loads((d / "dataset_description.json").read_text()) for d in (root, derived)]
    assert [kind["DatasetType"] for kind in kinds] == ["raw", "derivative"]
    people = read_table(root / "participants.tsv")
    assert list(people[0]) == ["participant_id", "age", "sex", "site", "diagnosis"]
    assert {row["site"] for row in people} == {"site1", "site2"}

    for index, person in enumerate(people):
        run = draw_run(study, index, "event", 2)
        stem = f"{person['participant_id']}/func/{person['participant_id']}_task-event_run-02"
        series, tr = read_dtseries(derived / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii")
        assert tr == run.tr == {"site1": 1.0, "site2": 0.72}[person["site"]]
        sidecar = json.loads((derived / f"{stem}_space-fsLR_den-91k_bold.json").read_text())
        assert sidecar["RepetitionTime"] == tr and sidecar["TaskName"] == "event"
        np.testing.assert_array_equal(series[1:], on_fslr(run)[1:])
        np.testing.assert_allclose(series[0], SETTLING * on_fslr(run)[0], rtol=1e-6)
        events = read_table(root / f"{stem}_events.tsv")
        assert [row["trial_type"] for row in events] == [e["trial_type"] for e in run.events]
        assert not (derived / f"{stem}_events.tsv").exists()


def test_confounds_are_those_of_the_run(tree):
    root, study = tree("fmriprep") / "derivatives" / "fmriprep", study_of("fmriprep")
    rows = read_table(root / "sub-002/func/sub-002_task-rest_run-01_desc-confounds_timeseries.tsv")
    run = draw_run(study, 1, "rest", 1)
    assert len(rows) == len(run.series)
    table = {name: [row[name].replace("n/a", "nan") for row in rows] for name in rows[0]}
    table = {name: np.array(column, float) for name, column in table.items()}
    tissues = ("global_signal", "csf", "white_matter")
    for name in (*tissues, *PARAMETERS):
        change = np.diff(table[name], prepend=np.nan)
        for suffix, expected in (
            ("derivative1", change),
            ("power2", table[name] ** 2),
            ("derivative1_power2", change**2),
        ):
            scale = np.abs(table[name]).max() ** (2 if "power2" in suffix else 1)
            np.testing.assert_allclose(table[f"{name}_{suffix}"], expected, atol=1e-6 * scale)
    first = [row for row in rows[0] if rows[0][row] == "n/a"]
    assert {"framewise_displacement", "dvars", "std_dvars", "rot_z_derivative1"} <= set(first)
    weights = np.repeat([1, 50], 3)
    steps = np.stack([table[f"{name}_derivative1"] for name in PARAMETERS], axis=1)
    expected = np.abs(steps[1:] * weights).sum(1)
    np.testing.assert_allclose(table["framewise_displacement"][1:], expected, rtol=1e-4)
    np.testing.assert_allclose(expected, run.motion.displacement[1:], rtol=1e-4)
    mean = run.series[:, cortex()].mean(1)
    np.testing.assert_allclose(table["global_signal"][1:], mean[1:], rtol=1e-5)
    assert list(np.flatnonzero(table["non_steady_state_outlier00"])) == [0]
    assert {f"a_comp_cor_{i:02d}" for i in range(6)} <= set(table)
    # Half a minute is too short for a drift of 128 s; four minutes are not.
    assert "cosine00" not in table


def test_hcp_tree_has_acquisitions_and_explanatory_variables(tree):
    root = tree("hcp")
    subjects = sorted(path.name for path in root.iterdir() if path.is_dir())
    assert len(subjects) == 3 and all(len(name) == 6 and name.isdecimal() for name in subjects)
    scans = {
        name: {path.name for path in (root / name / "MNINonLinear/Results").iterdir()}
        for name in subjects
    }
    at_3t = {"rfMRI_REST1_LR", "tfMRI_WM_LR", "tfMRI_MOTOR_RL"}
    at_7t = {"rfMRI_REST1_7T_PA", "tfMRI_MOVIE1_7T_AP", MERGED_RETINOTOPY}
    assert scans == {subjects[0]: at_3t | at_7t, subjects[1]: at_3t, subjects[2]: at_3t}

    folder = root / subjects[0] / "MNINonLinear/Results"
    for name, tr in (("rfMRI_REST1_7T_PA", 1.0), ("tfMRI_WM_LR", 0.72)):
        series, read_tr = read_dtseries(folder / name / f"{name}_Atlas_MSMAll.dtseries.nii")
        assert read_tr == tr and tr * (len(series) - 1) >= STUDY.seconds
    run = draw_run(STUDY, 0, "event", 1, tr=0.72)
    np.testing.assert_array_equal(series, on_fslr(run))
    lines = {path.stem: path.read_text().splitlines() for path in (folder / name / "EVs").iterdir()}
    assert lines.pop("Sync")[0].count("\t") == 0
    found = [
        {"onset": float(onset), "duration": float(duration), "trial_type": condition}
        for condition in lines
        for onset, duration, _ in (line.split("\t") for line in lines[condition])
    ]
    assert sorted(found, key=lambda event: event["onset"]) == run.events

    rows = read_table(root / "restricted.csv", delimiter=",")
    assert [row["Subject"] for row in rows] == subjects
    assert {"Age_in_Yrs", "ZygosityGT", "Pedigree_ID", "Family_ID"} <= set(rows[0])


def test_hcp_names_and_families(tmp_path):
    numbers = range(1, 15)
    names = {acquisition("event", number) for number in numbers}
    assert len(names) == 14 and {name.rsplit("_", 1)[0] + "_LR" for name in names} <= names
    assert [acquisition("rest", n) for n in (2, 3)] == ["rfMRI_REST1_RL", "rfMRI_REST2_LR"]
    study = Study(subjects=400)
    write_tables(tmp_path, study)
    rows = read_table(tmp_path / "restricted.csv", delimiter=",")
    sizes = np.bincount(np.unique([row["Pedigree_ID"] for row in rows], return_inverse=True)[1])
    assert set(sizes) == {1, 2, 3, 4}
    assert {row["ZygosityGT"] for row in rows} == {"MZ", "DZ", " "}
    # Half-siblings: a pedigree may hold two families, a family is never in two pedigrees.
    families = {row["Family_ID"]: row["Pedigree_ID"] for row in rows}
    assert len(families) > len(sizes)
    assert len({(row["Family_ID"], row["Pedigree_ID"]) for row in rows}) == len(families)


def test_nsd_tree_has_pairs_and_designs(tree):
    root = tree("nsd")
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == ["subj01", "subj02", "subj03"]
    places = ["session01_run01", "session01_run02", "session02_run01"]
    folder, designs = root / "subj02/32k_fs_LR/timeseries", root / "subj02/func1mm/design"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"timeseries_{place}.{side}.func.gii" for place in places for side in ("lh", "rh")
    ]
    assert sorted(p.name for p in designs.iterdir()) == [f"design_{p}.tsv" for p in places]
    # The first run is a rest run: nothing was shown.
    assert set((designs / f"design_{places[0]}.tsv").read_text().split()) == {"0"}

    run = draw_run(STUDY, 1, "event", 2, tr=1.0, onset_step=1.0)
    halves = [nibabel.load(folder / f"timeseries_{places[2]}.{s}.func.gii") for s in ("lh", "rh")]
    assert all("TimeStep" not in half.meta and not half.darrays[0].meta for half in halves)
    series = np.concatenate(
        [np.stack([frame.data for frame in half.darrays]) for half in halves], axis=1
    )
    assert series.shape == (32, 2 * 32492)
    cortex = np.concatenate(standard_cortex("fsLR-32k"))
    np.testing.assert_array_equal(series[:, cortex], on_fslr(run))
    assert not series[:, ~cortex].any()

    images = np.array((designs / f"design_{places[2]}.tsv").read_text().split(), int)
    assert len(images) == 32 and images.max() <= 73_000
    shown = np.flatnonzero(images)
    assert [float(onset) for onset in shown] == [event["onset"] for event in run.events]
    conditions = [STUDY.condition_names[(image - 1) % 2] for image in images[shown]]
    assert conditions == [event["trial_type"] for event in run.events]


def test_ukbb_tree_has_a_zip_for_each_visit(tree):
    root = tree("ukbb")
    names = sorted(path.name for path in root.glob("*.zip"))
    subjects = [name[:7] for name in names[::2]]
    assert names == [f"{sub}_32136_{visit}_0.zip" for sub in subjects for visit in (2, 3)]
    lost = []
    for place, name in enumerate(names):
        with zipfile.ZipFile(root / name) as archive:
            kinds = ("rfMRI", "tfMRI")[place % 2 :]  # there is no second rest run
            members = [f"surf_fMRI/CIFTIs/bb.{kind}.MNI.MSMAll.dtseries.nii" for kind in kinds]
            assert archive.namelist() == members
            series, tr = read_dtseries(archive.read(members[-1]))
        assert tr == 0.735
        lost.append(1 - series.any(0).mean())
    assert lost[0] == lost[2] == 0 and 0 < lost[1] < 0.01 < lost[3] < 0.1


def test_same_flags_give_the_same_bytes(tmp_path):
    study = Study(subjects=1, runs=0, frames=17)
    trees = [simulate(study, tmp_path / name, kind="ukbb") for name in "ab"]
    one, two = ({path.name: path.read_bytes() for path in root.iterdir()} for root in trees)
    assert one == two and "1000107_32136_2_0.zip" in one


def test_sites_differ_in_tr_and_noise_and_runs_last_equally_long(tmp_path):
    study = Study(subjects=8, runs=0, frames=60, sites=4, diagnosis="none", tr=0.8)
    sites = [draw_site(study, site) for site in range(4)]
    assert [site.tr for site in sites] == [0.8, 0.58, 1.6, 1.2]
    for levels in ([s.white for s in sites], [s.global_signal for s in sites]):
        assert np.diff(sorted(levels)).min() > 0.1
    patterns = np.corrcoef([np.log(site.noise_gain) for site in sites])
    assert np.abs(patterns[np.triu_indices(4, 1)]).max() < 0.6
    simulate(study, tmp_path / "set")
    lines = [
        run for name in ("train", "val", "test") for run in Store(tmp_path / "set" / name).runs
    ]
    assert {line["site"]: line["source_tr"] for line in lines} == {
        f"site{i + 1}": site.tr for i, site in enumerate(sites)
    }
    assert {line["n_frames"] for line in lines} == {48, 49}  # of 1 s, from 47.2 s
    assert {line["diagnosis"] for line in lines} == {"control", "patient"}
    means = [line["qc"]["fd_mean"] for line in lines]
    assert all(0.02 < mean < 0.6 for mean in means) and len(set(means)) == 8
    with np.load(tmp_path / "set" / "truth.npz") as truth:
        told = dict(zip(truth["subject"], truth["site"], strict=True))
    assert all(told[line["subject"]] == line["site"] for line in lines)


def test_motion_is_of_a_realistic_size_at_any_tr():
    rng = np.random.default_rng(0)
    for tr in (0.72, 1.0, 2.0):
        runs = [draw_motion(rng, 0.12, round(300 / tr), tr) for _ in range(60)]
        mean = np.mean([run.displacement[1:].mean() for run in runs])
        assert 0.08 < mean / np.sqrt(tr) < 0.16
        assert np.median([run.displacement.max() for run in runs]) > 0.5  # there are jerks
        assert np.abs(np.concatenate([run.parameters for run in runs])).max() < 10


def test_motion_disturbs_the_signal_in_proportion_to_displacement():
    still, moving, wild = (Study(motion=strength) for strength in (0.0, 1.0, 2.0))
    runs = [draw_run(study, 0, "rest", 1) for study in (still, moving, wild)]
    displacement = runs[1].motion.displacement
    dvars = [np.sqrt((np.diff(run.series, axis=0) ** 2).mean(1)) for run in runs]
    assert abs(np.corrcoef(dvars[0], displacement[1:])[0, 1]) < 0.3
    assert np.corrcoef(dvars[1], displacement[1:])[0, 1] > 0.6
    one, two = (run.series - runs[0].series for run in runs[1:])
    np.testing.assert_allclose(two, 2 * one, atol=0.05)
    # Neighbouring places are disturbed alike, and most at the edge of the brain.
    spread = one.std(0) / np.maximum(runs[0].series.mean(0), 1)
    assert np.quantile(spread[cortex()], 0.95) > 3 * np.quantile(spread[cortex()], 0.05)


def couplings(study) -> np.ndarray:
    """What a connectome could tell of each subject."""
    rows, columns = np.triu_indices(14, 1)
    mixing = [draw_traits(study, index).mixing for index in range(study.subjects)]
    return np.array([(own @ own.T)[rows, columns] for own in mixing])


def decoded(study, features) -> float:
    """Accuracy of a linear classifier of the diagnosis on subjects that it has not seen."""
    people = [draw_person(study, index) for index in range(study.subjects)]
    patient = [person.diagnosis == "patient" for person in people]
    return cross_val_score(LogisticRegression(max_iter=1000), features, patient, cv=10).mean()


def test_diagnosis_is_in_the_coupling_only_as_an_effect():
    of = {kind: Study(subjects=160, diagnosis=kind) for kind in ("off", "none", "motion", "effect")}
    of["silent"] = Study(subjects=160, diagnosis="effect", diagnosis_effect=0.0)
    features = {kind: couplings(study) for kind, study in of.items()}
    assert decoded(of["effect"], features["effect"]) > 0.9
    assert 0.35 < decoded(of["none"], features["none"]) < 0.65  # within 3.8 standard errors of 0.5
    for kind in ("none", "motion", "silent"):
        np.testing.assert_array_equal(features[kind], features["off"])
    off, none = (draw_run(of[k], 0, "rest", 1) for k in ("off", "none"))
    np.testing.assert_array_equal(off.series, none.series)


@pytest.mark.parametrize("sites", [1, 2, 3])
@pytest.mark.parametrize("diagnosis", ["none", "effect", "site", "motion"])
def test_diagnosis_goes_along_with_what_it_should_and_nothing_else(diagnosis, sites):
    if (diagnosis, sites) == ("site", 1):
        with pytest.raises(InputError, match="--sites=2"):
            Study(diagnosis="site")
        return
    study = Study(subjects=210, diagnosis=diagnosis, sites=sites)
    people = [draw_person(study, index) for index in range(study.subjects)]
    patient = np.array([person.diagnosis == "patient" for person in people])
    assert abs(patient.mean() - 0.5) < 0.03

    def correlation(values) -> float:
        return np.corrcoef(patient, values)[0, 1]

    of_site = [patient[[person.site == site for person in people]] for site in range(sites)]
    counts = [len(members) for members in of_site]
    assert max(counts) - min(counts) <= 2
    shares = [members.mean() for members in of_site]
    confounded = {2: [0.86, 0.14], 3: [0.86, 0.5, 0.14]}
    expected = confounded[sites] if diagnosis == "site" else [0.5] * sites
    np.testing.assert_allclose(shares, expected, atol=0.03)
    moved = correlation([np.log(person.displacement) for person in people])
    assert moved > 0.7 if diagnosis == "motion" else abs(moved) < 0.2
    assert abs(correlation([person.sex == "F" for person in people])) < 0.05
    assert abs(correlation([person.age for person in people])) < 0.2


def test_larger_studies_keep_the_people_of_smaller_ones():
    small, large = (Study(subjects=n, sites=3, diagnosis="site") for n in (9, 40))
    people = [[draw_person(study, index) for index in range(9)] for study in (small, large)]
    assert people[0] == people[1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sites=0"], "--sites"),
        (["--sites=7"], "--subjects=14"),
        (["--sites=2", "--tr=0.1"], "at one of 2 sites"),
        (["--motion=-1"], "--motion"),
        (["--diagnosis=effect", "--diagnosis-effect=inf"], "--diagnosis-effect"),
        (["--diagnosis=site"], "--sites=2"),
        (["--format=hcp", "--sites=2"], "--sites"),
        (["--format=ukbb", "--diagnosis=none"], "--diagnosis"),
        (["--format=nsd", "--tr=2"], "--tr"),
    ],
)
def test_what_a_study_or_a_form_cannot_have_is_refused(tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as end:
        main([f"--output={tmp_path / 'set'}", *flags])
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1
    assert sentence in error and not list(tmp_path.iterdir())
