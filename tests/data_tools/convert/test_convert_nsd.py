"""The Natural Scenes Dataset: pairs, designs, sessions, trials, conversion, and its volumes."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.freesurfer import MGHImage

from data_tools.convert import conversion
from data_tools.convert.pseudonyms import Pseudonyms
from data_tools.convert.releases.nsd import find_nsd_runs, read_design
from data_tools.convert.releases.nsd_trials import label_runs
from data_tools.convert_nsd import main
from data_tools.errors import InputError
from data_tools.nsd_volume import SIDES, map_run, sample_cubic
from data_tools.store.reader import Store
from tests.data_tools.readers.surface_files import write_gifti
from tests.data_tools.simulate.simulated_trees import simulated_tree


def add_run(root, subject, name, sides="lr", n_frames=20):
    folder = root / subject / "32k_fs_LR" / "timeseries"
    folder.mkdir(parents=True, exist_ok=True)
    for side in sides:
        path = folder / f"timeseries_{name}.{side}h.func.gii"
        write_gifti(path, np.zeros((n_frames, 5), np.float32))
    return folder / f"timeseries_{name}.lh.func.gii"


def add_design(root, subject, name, images, place="func1mm/design"):
    path = root / subject / place / f"design_{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image}\n" for image in images))
    return path


def design(n_rows=20, **images):
    rows = [0] * n_rows
    for frame, image in images.items():
        rows[int(frame[1:])] = image
    return rows


def test_runs_sessions_and_designs(tmp_path):
    people = tmp_path / "nsddata_timeseries" / "ppdata"
    for subject, name in (
        ("subj01", "session01_run01"),
        ("subj01", "session21_run14"),
        ("subj04", "session02_run01"),
        ("subj04", "prffloc_run01"),
    ):
        add_run(people, subject, name)
    add_run(people, "subj04", "session02_run02", sides="r")
    add_design(people, "subj01", "session01_run01", design(f3=73000))
    add_design(people, "subj01", "session21_run14", design(), place="design")

    for root in (tmp_path, people):
        runs, remarks = find_nsd_runs(root)
        assert [run.key for run in runs] == [
            "sub-subj01_ses-1_run-1",
            "sub-subj01_ses-21_run-14",
            "sub-subj04_ses-2_run-1",
            "sub-subj04_ses-2_run-2",
        ]
        assert [run.fields.get("task") for run in runs] == ["nsdcore", "rest", None, None]
        assert runs[1].fields == {"subject": "subj01", "session": 21, "run": 14, "task": "rest"}
        assert {run.sidecar_tr for run in runs} == {1.0}
        assert remarks == [
            "Subjects without all of their sessions: 2 of 40, 1 of 30.",
            "Left out, as they are of other experiments: 1 runs.",
            "Runs without a design, so without events: 2 of 4.",
        ]
    runs = pickle.loads(pickle.dumps(runs))
    assert runs[0].read_events()[0]["nsd_id"] == 72999 and runs[1].read_events() == []
    with pytest.raises(InputError, match="timeseries_session02_run02.lh.func.gii beside it"):
        runs[3].read(runs[3].path)
    assert [run.fields["subject"] for run in find_nsd_runs(tmp_path, subjects="*4")[0]] == [
        "subj04",
        "subj04",
    ]
    # Series that were made elsewhere than where the release lies.
    add_run(tmp_path / "mapped", "subj01", "session01_run01")
    (run,), _ = find_nsd_runs(tmp_path / "mapped", designs=tmp_path)
    assert run.fields["task"] == "nsdcore"
    with pytest.raises(InputError, match="No run was found .* expected subjNN/32k_fs_LR"):
        find_nsd_runs(tmp_path / "mapped" / "subj01")


def test_designs(tmp_path):
    series = add_run(tmp_path, "subj01", "session01_run01")

    def events(images):
        return read_design(add_design(tmp_path, "subj01", "session01_run01", images), series)

    # The release has an image where it appears; an image that stays is one presentation.
    expected = [
        {"onset": 4.0, "duration": 3.0, "trial_type": "nsd", "nsd_id": 0},
        {"onset": 8.0, "duration": 3.0, "trial_type": "nsd", "nsd_id": 46002},
        {"onset": 12.0, "duration": 3.0, "trial_type": "nsd", "nsd_id": 46002},
    ]
    assert events(design(f4=1, f8=46003, f12=46003)) == expected
    assert events(design(f4=1, f5=1, f6=1, f8=46003, f9=46003, f12=46003)) == expected
    # And it has one frame more than the design has lines.
    assert events(design(19, f4=1, f8=46003, f12=46003)) == expected
    for images in (design(18), design(21), []):
        with pytest.raises(InputError, match=rf"has {len(images)} lines and .* 20 frames"):
            events(images)
    for bad in ("x", "-1", "73001", "1.5"):
        with pytest.raises(InputError, match=r"Line 6 of .*design_session01_run01\.tsv is no num"):
            events(design(f5=bad))


def test_a_release_becomes_a_store(tmp_path_factory, tmp_path, capsys):
    tree = simulated_tree(tmp_path_factory, "nsd")
    main([f"--input={tree}", f"--output={tmp_path / 'store'}", "--subjects=subj02", "--jobs=1"])
    assert "2 of 40" in capsys.readouterr().out
    store = Store(tmp_path / "store")
    assert store.geometry.space == "flat-fsLR-32k"
    assert {(run["dataset"], run["subject"], run["source_tr"]) for run in store.runs} == {
        ("nsd", "subj02", 1.0)
    }
    (events, *_) = [run["events"] for run in store.runs if run.get("task") == "nsdcore"]
    assert all(0 <= event["nsd_id"] < 73000 and event["duration"] == 3 for event in events)
    assert np.isfinite(store.read(0, 0, 16)).all()


def write_trials(path, rows, columns="sub,ses,run,trial_id,onset,nsd_id,split,category_id"):
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


def test_included_trials_say_their_class(tmp_path):
    people = tmp_path / "ppdata"
    for name in ("session01_run01", "session01_run02"):
        add_run(people, "subj01", name)
        add_design(people, "subj01", name, design(f3=5, f7=6, f11=5, f15=8))
    runs, _ = find_nsd_runs(people)
    table = write_trials(
        tmp_path / "trials.csv",
        [
            "subj01,1,1,2,3.0,4,train,37",
            "subj01,1,1,9,11.0,4,train,37",  # the same image again
            "subj01,1,1,4,7.0,5,shared1000,22",
            "subj02,1,1,1,3.0,4,test,37",  # of somebody who is not here
        ],
    )
    runs.append(dataclasses.replace(runs[1], key="none", fields=runs[1].fields | {"run": 3}))
    runs.append(dataclasses.replace(runs[0], key="bare", read_events=None))
    labelled = pickle.loads(pickle.dumps(label_runs(runs, table)))
    events = labelled[0].read_events()
    assert [event.get("category_id") for event in events] == [37, None, 37, None]
    assert [event.get("trial_id") for event in events] == [2, 4, 9, None]
    assert events[1]["shared1000_category_id"] == 22  # a split of its own
    assert all("category_id" not in event for event in labelled[1].read_events())
    assert {run.fields["labels_from"] for run in labelled} == {"trials.csv"}
    with pytest.raises(InputError, match="3 of 3 included trials are not in the design of bare"):
        labelled[3].read_events()
    with pytest.raises(InputError, match="no trial of these runs: .* as in subj01, 1, 2"):
        label_runs(runs[1:2], table)

    logits = np.zeros((73000, 80), np.float32)
    logits[4, 61] = logits[5, 3] = logits[7, 17] = 1
    np.save(tmp_path / "logits.npy", logits)
    everything = label_runs(runs, logits=tmp_path / "logits.npy")[1].read_events()
    assert [event["category_id"] for event in everything] == [61, 3, 61, 17]
    columns = "sub,ses,run,onset,nsd_id"
    assert label_runs(runs, logits=tmp_path / "logits.npy")[3].read_events is None
    bare = write_trials(tmp_path / "bare.csv", ["subj01,1,2,7.0,5"], columns)
    # Messages about labelled runs stay whole under pseudonyms, but for the subject.
    hidden = Pseudonyms(bytes(16)).run(label_runs(runs, logits=tmp_path / "logits.npy")[1])
    pseudonym = hidden.fields["subject"]
    assert hidden.shown("subj01 has 1.5 s: mend it.") == f"{pseudonym} has 1.5 s: mend it."
    both = label_runs(runs, bare, tmp_path / "logits.npy")[1]
    assert both.fields["labels_from"] == "bare.csv+logits.npy"
    events = both.read_events()
    assert [event.get("category_id") for event in events] == [None, 3, None, None]

    with pytest.raises(InputError, match="no column category_id: give --logits"):
        label_runs(runs, bare)
    with pytest.raises(InputError, match="has a column category_id: leave out --logits"):
        label_runs(runs, table, tmp_path / "logits.npy")
    wrong = write_trials(tmp_path / "wrong.csv", ["subj01,1,1,1,4.0,5,train,1"])
    with pytest.raises(
        InputError, match="1 of 1 included trials are not in the design of sub-subj"
    ):
        label_runs(runs, wrong)[0].read_events()
    bad_rows = ("subj01,1,1,x,9", "subj01,1,1,3.0,-1", "subj01,1,1,3.0,73000")
    for rows, names in (*(([row], columns) for row in bad_rows), (["a,b"], "sub,ses")):
        with pytest.raises(InputError, match="Line 2 of|no column 'run'"):
            label_runs(
                runs, write_trials(tmp_path / "bad.csv", rows, names), tmp_path / "logits.npy"
            )
    for bad in (logits[:9], logits[:, 0], logits.astype(int), np.full_like(logits, np.nan)):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(InputError, match="bad.npy"):
            label_runs(runs, logits=tmp_path / "bad.npy")
    np.savez(tmp_path / "bad.npz", logits)
    with pytest.raises(InputError, match="holds several arrays"):
        label_runs(runs, logits=tmp_path / "bad.npz")


def test_labelled_trials_reach_the_store(tmp_path_factory, tmp_path):
    tree = simulated_tree(tmp_path_factory, "nsd")
    logits = np.random.default_rng(0).normal(size=(73000, 4)).astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    main(
        [f"--input={tree}", f"--output={tmp_path / 'store'}", "--subjects=subj02", "--jobs=1"]
        + [f"--logits={tmp_path / 'logits.npy'}"]
    )
    events = [e for run in Store(tmp_path / "store").runs for e in run["events"]]
    assert events and all(e["category_id"] == logits[e["nsd_id"]].argmax() for e in events)


def test_a_job_that_goes_on_with_labels_has_them_everywhere(
    tmp_path_factory, tmp_path, monkeypatch
):
    tree = simulated_tree(tmp_path_factory, "nsd")
    np.save(tmp_path / "logits.npy", np.eye(73000, 4, dtype=np.float32))
    arguments = [f"--input={tree}", f"--output={tmp_path / 'store'}", "--jobs=1"]
    arguments += ["--subjects=subj02"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(conversion, "finish_store", killed)
        main(arguments)
    assert list((tmp_path / "store.partial" / "parts").glob("*.json"))  # runs without labels
    main([*arguments, f"--logits={tmp_path / 'logits.npy'}"])
    runs = Store(tmp_path / "store").runs
    assert {run["labels_from"] for run in runs} == {"logits.npy"}
    assert all("category_id" in event for run in runs for event in run["events"])


@pytest.fixture
def volumes(tmp_path):
    """A release of volumes with one small run, its transforms, and the spheres."""
    rng, top = np.random.default_rng(0), tmp_path / "NSD"
    folder = top / "nsddata" / "ppdata" / "subj03" / "transforms"
    folder.mkdir(parents=True)
    places = {side: rng.uniform(2, 9, (3, 50, 3)) for side in SIDES}
    for side in SIDES:
        places[side][1, :5] = 9999  # not scanned at one depth
        for i in range(3):
            name = f"{side}.func1pt0-to-layerB{i + 1}.mgz"
            nibabel.save(MGHImage(places[side][i][:, None].astype("f4"), np.eye(4)), folder / name)
        nearest = np.arange(70) % 50 + 1
        name = f"{side}.white-to-fsaverage.mgz"
        nibabel.save(MGHImage(nearest[:, None, None].astype("f4"), np.eye(4)), folder / name)
    series = top / "nsddata_timeseries" / "ppdata" / "subj03" / "func1mm" / "timeseries"
    series.mkdir(parents=True)
    x, y, z = np.indices((10, 11, 12)) + 1.0
    frames = np.stack([t * (x + 2 * y + 3 * z) for t in range(1, 19)], 3).astype(np.float32)
    nibabel.save(Nifti1Image(frames, np.eye(4)), series / "timeseries_session01_run01.nii.gz")
    templates = tmp_path / "resample_fsaverage"
    templates.mkdir()
    for side in "LR":
        for name in (
            f"fsaverage_std_sphere.{side}.164k_fsavg_{side}.surf.gii",
            f"fs_LR-deformed_to-fsaverage.{side}.sphere.32k_fs_LR.surf.gii",
            f"fsaverage.{side}.midthickness_va_avg.164k_fsavg_{side}.shape.gii",
            f"fs_LR.{side}.midthickness_va_avg.32k_fs_LR.shape.gii",
        ):
            (templates / name).touch()
    return top, templates, places


def test_a_volume_is_sampled_at_three_depths_and_carried_to_fsaverage(volumes):
    """Of a volume that is linear in its places cubic interpolation is exact."""
    top, _, places = volumes
    (run,) = top.glob("nsddata_timeseries/**/*.nii.gz")
    for side in SIDES:
        series = map_run(run, top, "subj03", side)
        values = (places[side] @ [1, 2, 3]) * (places[side][..., 0] != 9999)
        expected = values.mean(0)[np.arange(70) % 50]
        assert series.shape == (18, 70) and series.dtype == np.float32
        np.testing.assert_allclose(series[0], expected, rtol=1e-2)
        np.testing.assert_allclose(series[17], 18 * series[0], rtol=1e-5)
    x = [1, 0.9, 5.1, 2, -np.inf, np.inf, np.nan]
    values = sample_cubic(np.ones((5, 5, 5)), np.array([x, [2] * 7, [2, 2, 2, 5.0, 2, 2, 2]]))
    np.testing.assert_allclose(values, [1, 0, 0, 1, 0, 0, 0])
    with pytest.raises(InputError, match="subj04/transforms/lh.func1pt0-to-layerB1.mgz"):
        map_run(run, top, "subj04", "lh")
    folder = top / "nsddata" / "ppdata" / "subj03" / "transforms"
    far = MGHImage(np.full((70, 1, 1), 51, "f4"), np.eye(4))  # there are 50 vertices
    nibabel.save(far, folder / "lh.white-to-fsaverage.mgz")
    with pytest.raises(InputError, match="transforms of subj03, lh, do not fit"):
        map_run(run, top, "subj03", "lh")


def test_the_commands_that_map_volumes(tmp_path, volumes, capsys):
    top, templates, _ = volumes
    arguments = ["--from-volume", f"--input={top}", f"--output={tmp_path / 'store'}"]

    def told(*more):
        with pytest.raises(SystemExit):
            main([*arguments, *more])
        return capsys.readouterr().err

    where = (f"--mapped={tmp_path / 'mapped'}", f"--templates={templates}")
    assert "needs --mapped" in told() and "needs --mapped" in told(where[0])
    assert "No run was found" in told(*where, "--subjects=subj09")
    (templates / "fs_LR.R.midthickness_va_avg.32k_fs_LR.shape.gii").rename(tmp_path / "away")
    assert "shape.gii is missing" in told(*where)
    (tmp_path / "away").rename(templates / "fs_LR.R.midthickness_va_avg.32k_fs_LR.shape.gii")
    with pytest.raises(SystemExit):
        main([f"--input={top}", f"--output={tmp_path / 's'}", where[0]])
    assert "give --from-volume too" in capsys.readouterr().err

    table = write_trials(tmp_path / "my trials.csv", ["subj03,1,1,0,3.0,4,train,37"])
    assert "no.csv" in told(*where, f"--trials={tmp_path / 'no.csv'}")

    where += (f"--trials={table}", "--jobs", "1")
    main([*arguments, *where])
    script, remarks = capsys.readouterr()
    assert "Runs to map: 1; mapped already: 0." in remarks and not (tmp_path / "mapped").exists()
    assert "Runs without a design, so without events: 1 of 1." in remarks
    add_design(top / "nsddata_timeseries" / "ppdata", "subj03", "session01_run01", design(18))
    main([*arguments, *where])
    assert "without a design" not in capsys.readouterr().err
    # The script itself, with a Workbench that copies, and without the conversion at its end.
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "wb_command").write_text('#!/bin/sh\n[ -f "$3" ] && [ -f "$9" ] && cp "$2" "$6"\n')
    (tools / "python").write_text(
        "#!/bin/sh\n"
        f'case "$2" in *convert_nsd) echo "$@" ;; *) exec {sys.executable} "$@" ;; esac\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    done = subprocess.run(
        ["sh"], input=script, capture_output=True, text=True,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The conversion has the other flags, whatever their form.
    assert done.stdout.strip() == (
        f"-m data_tools.convert_nsd --input={tmp_path / 'mapped'} --designs={top} "
        f"--output={tmp_path / 'store'} --trials={table} --jobs 1"
    )
    folder = tmp_path / "mapped" / "subj03" / "32k_fs_LR" / "timeseries"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"timeseries_session01_run01.{side}.func.gii" for side in SIDES
    ]
    assert len(nibabel.load(folder / "timeseries_session01_run01.rh.func.gii").darrays) == 18
    main([*arguments, *where])
    script, remarks = capsys.readouterr()
    assert "mapped already: 1" in remarks and "wb_command" not in script
