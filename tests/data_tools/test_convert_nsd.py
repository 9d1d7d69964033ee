"""The Natural Scenes Dataset: pairs and their names, designs, sessions, conversion."""

import pickle

import numpy as np
import pytest

from data_tools.convert_nsd import main
from data_tools.errors import InputError
from data_tools.releases.nsd import find_nsd_runs, read_design
from data_tools.store import Store
from tests.data_tools.simulated_trees import simulated_tree
from tests.data_tools.surface_files import write_gifti


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
