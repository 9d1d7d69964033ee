"""Published splits: which runs of a store are in train, validation and test, and what is stated."""

import json

import numpy as np
import pytest

from data_tools import import_arrow, split
from data_tools.errors import InputError
from data_tools.published.published_split import FOLDER, find_split_file, read_split, read_trait
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from data_tools.store.selection import open_selection
from tests.data_tools.store.small_stores import write_small_store

TASKS = ("EMOTION", "LANGUAGE", "MOTOR", "RELATIONAL", "SOCIAL", "WM")
SESSIONS = {"01": 40, "02": 40, "03": 32, "04": 30, "05": 40, "06": 32, "07": 40, "08": 30}


def frames(n):
    return np.zeros((n, 6, 16), np.float16)


def hcp_run(subject, task, batch, way="LR", mag="3T", **more):
    """Key and fields of a run; conditions begin at 3.5 s, and too late for a clip of 16 s."""
    events = [
        {"onset": 3.5, "duration": 12.0, "trial_type": {"WM": "2bk_tools"}.get(task, "fear")},
        {"onset": 4.0, "duration": 12.0, "trial_type": "cue"},
        {"onset": 5.0, "duration": 12.0, "trial_type": "neut"},
    ]
    key = f"sub-{subject}_mod-tfMRI_task-{task}_mag-{mag}_dir-{way}"
    fields = {"dataset": "hcp", "subject": str(subject), "mod": "tfMRI", "task": task, "mag": mag}
    fields |= {"dir": way, "events": events, "frames_TxNxP": frames(20), "missing": None}
    return key, fields | ({"batch": batch} if batch is not None else {}) | more


@pytest.fixture
def hcp(tmp_path):
    runs = {}
    for batch in (0, 7, 8, 16, 17, 18, 19):
        runs |= dict(hcp_run(100 + batch, task, batch) for task in (*TASKS, "GAMBLING"))
        runs |= dict([hcp_run(100 + batch, "WM", batch, way="RL")])
        runs |= dict(hcp_run(200 + batch, task, batch) for task in TASKS[1:])  # one is missing
    return write_small_store(tmp_path / "hcp", runs)


def apply(store, output, name):
    split.main([str(store), f"--output={output}", f"--published={name}"])
    lists = {path.stem: path.read_text().split() for path in output.glob("*.txt")}
    return lists, json.loads((output / "split.json").read_text())


def test_task21(tmp_path, hcp, capsys):
    lists, about = apply(hcp.path, tmp_path / "splits", "task21")
    subjects = {name: sorted({key[4:7] for key in keys}) for name, keys in lists.items()}
    assert subjects == {
        "train": ["100", "107"],
        "validation": ["116", "117"],
        "test": ["118", "119"],
    }
    assert all("dir-LR" in key and "GAMBLING" not in key for keys in lists.values() for key in keys)
    assert [len(keys) for keys in lists.values()] == [12] * 3
    # Of each run one condition starts a whole clip: the second begins too late, the cue is none.
    assert about["splits"]["train"]["clips_of_class"] == {"2bk_tools": 2, "fear": 10}
    out = capsys.readouterr().out
    assert "train: classes 2, but 21 are published." in out and "event:trial_type;task21" in out
    labels = json.loads((tmp_path / "splits" / "labels.json").read_text())
    assert list(labels)[0] == "fear" and list(labels)[-1] == "2bk_tools" and len(labels) == 21
    kept = open_selection(f"{hcp.path}?key={tmp_path / 'splits' / 'test.txt'}")
    assert len(kept.runs) == 12


def test_batches_of_imported_shards_follow_from_their_numbers(tmp_path):
    runs = {}
    for number in (0, 799, 1600, 1999):
        source = f"hcp-flat_{number:04d}.tar"
        runs |= dict(hcp_run(number + 1, task, None, source=source) for task in TASKS)
    store = write_small_store(tmp_path / "hcp", runs)
    lists, _ = apply(store.path, tmp_path / "s", "task21")
    counts = {name: len({key.split("_")[0] for key in keys}) for name, keys in lists.items()}
    assert counts == {"train": 2, "validation": 1, "test": 1}


def test_the_older_split_takes_both_directions(tmp_path, hcp):
    lists, _ = apply(hcp.path, tmp_path / "s", "hcp_task_older")
    assert {key[4:7] for key in lists["train"]} >= {"116", "117", "200"}
    assert any("dir-RL" in key for key in lists["test"])
    assert {key[4:7] for key in lists["validation"]} == {"118", "218"}


@pytest.fixture(scope="module")
def nsd(tmp_path_factory):
    events = [{"onset": 1.0, "trial_type": "nsd", "nsd_id": 7, "category_id": 74}]
    runs = {
        f"sub-subj{subject}_ses-{session}_run-1": {
            "dataset": "nsd", "subject": f"subj{subject}", "session": session, "events": events,
            "frames_TxNxP": frames(20), "missing": None,
        }
        for subject, n in SESSIONS.items()
        for session in range(1, n + 1)
    }  # fmt: skip
    return write_small_store(tmp_path_factory.mktemp("nsd") / "nsd", runs)


def test_cococlip_has_the_published_sessions(tmp_path, nsd, capsys):
    lists, about = apply(nsd.path, tmp_path / "s", "nsd_cococlip")
    sessions = {name: count["sessions"] for name, count in about["splits"].items()}
    assert sessions == {"train": 184, "validation": 30, "test": 30, "testid": 30}
    assert not set(lists["train"]) & set(lists["testid"])
    assert "sub-subj03_ses-27_run-1" in lists["train"]
    assert "sub-subj03_ses-28_run-1" in lists["testid"]
    out = capsys.readouterr().out
    assert "testid: sessions 30, as published." in out and "subjects 6, as published" in out
    assert "test: clips 30, but 5,390 are published." in out
    assert about["splits"]["test"]["clips_of_class"] == {"clock": 30}


def test_the_older_41_classes(tmp_path, nsd):
    lists, about = apply(nsd.path, tmp_path / "s", "nsd_clusters41")
    assert [about["splits"][n]["sessions"] for n in ("train", "validation", "test", "testood")] == [
        84, 14, 14, 10,
    ]  # fmt: skip
    assert {key[4:10] for key in lists["testood"]} == {"subj04"}
    assert about["splits"]["train"]["clips"] == 84
    assert not (tmp_path / "s" / "labels.json").exists()


def test_what_does_not_fit_is_told(tmp_path, hcp, nsd, capsys):
    def told(store, name):
        with pytest.raises(SystemExit):
            split.main([str(store), f"--output={tmp_path / 'o'}", f"--published={name}"])
        assert not (tmp_path / "o").exists()
        return capsys.readouterr().err

    bare = write_small_store(tmp_path / "bare", dict(hcp_run(1, task, None) for task in TASKS))
    assert "No run has a 'batch'" in told(bare.path, "task21")
    slow = write_small_store(tmp_path / "slow", dict([hcp_run(1, "WM", 0)]), tr=0.72)
    assert "--target-tr=1" in told(slow.path, "task21")
    assert "No run is in the split 'validation'" in told(f"{hcp.path}?batch=0", "task21")
    assert "no split that ships with us" in told(hcp.path, "task22")
    for extra in ("--shares=a=0.5,b=0.5", "--seed=0", "--groups=family"):
        with pytest.raises(SystemExit):
            split.main([str(hcp.path), f"--output={tmp_path / 'o'}", "--published=task21", extra])
        assert f"leave {extra.split('=')[0]} out" in capsys.readouterr().err
    nobody = write_small_store(tmp_path / "nobody", {"x": {"frames_TxNxP": frames(20)}})
    assert "Run x has no subject" in told(nobody.path, "task21")
    (tmp_path / "own.json").write_text("{}")
    assert "own.json is not the file of a split" in told(hcp.path, tmp_path / "own.json")
    own = json.loads(find_split_file("task21").read_text())
    for fault, message in (
        ({"splits": {"all": {"batch": [0, 1]}}}, "values of 'batch' are no list of texts"),
        ({"expected": {"sessions": {"holdout": 3}}}, "'sessions' expects what is not counted"),
        ({"expected": {"classes": "many"}}, "'classes' expects what is no number"),
        ({"derived": {"batch": {"source": "shard_1"}}}, "has not one group"),
        ({"derived": {"batch": {"source": "("}}}, "own.json is not the file of a split"),
    ):
        (tmp_path / "own.json").write_text(json.dumps(own | fault))
        assert message in told(hcp.path, tmp_path / "own.json")
    spaces = write_small_store(tmp_path / "spaces", {"a b": hcp_run(1, "WM", 0)[1]})
    own = json.loads(find_split_file("hcp_task_older").read_text())
    own["splits"] = {"all": {}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    assert "holds spaces" in told(spaces.path, tmp_path / "own.json")


def test_every_file_that_ships_is_read():
    names = [path.stem for path in FOLDER.glob("*.json")]
    assert len(names) == 5
    for name in set(names) - {"traits"}:
        assert read_split(name).clip == {"frames": 16, "tr": 1.0}


def test_published_traits(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    from tests.data_tools.published.arrow_folders import write_arrow_folder

    rng = np.random.default_rng(0)
    splits = {
        name: [
            {"sub": f"{first + i}", "tr": 2.0, "bold": rng.normal(size=(40, 5)).astype("f2")}
            for i in range(3)
        ]
        for first, name in ((0, "train"), (3, "validation"), (6, "test"), (9, "extra"))
    }
    folder = write_arrow_folder(tmp_path / "abide.toy.arrow", splits, {"sub": pa.string()})
    (tmp_path / "g.npz").write_bytes(Geometry("toy", np.ones((5, 1), bool), (1, 1)).to_bytes())
    arguments = [f"--input={folder}", f"--output={tmp_path / 'out'}", "--jobs=1"]
    arguments += [f"--geometry={tmp_path / 'g.npz'}", "--trait=abide_dx"]
    with pytest.raises(SystemExit):
        import_arrow.main(arguments)
    assert "abide_target_map_dx.json are not in" in capsys.readouterr().err
    (tmp_path / "targets").mkdir()
    labels = {str(i): i % 2 for i in range(8)}  # the last is in no map
    (tmp_path / "targets" / "abide_target_map_dx.json").write_text(json.dumps(labels))
    import_arrow.main(arguments)
    assert "target of a probe: run:dx" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["test", "train", "validation"]
    store = Store(tmp_path / "out" / "test")
    assert [line["dx"] for line in store.runs] == [0, 1] and store.tr == 1.0
    assert store.runs[0]["n_frames"] == 80 and store.preprocessing["kind"] == "linear"
    # Keys of ADNI are a subject and a date, written in another way than in the columns.
    rows = {
        name: [{"sub": f"00{i}S6049", "visit": "20201012", "tr": 2.0,
                "bold": rng.normal(size=(40, 5)).astype("f2")}]
        for i, name in enumerate(("train", "validation", "test"))
    }  # fmt: skip
    columns = {"sub": pa.string(), "visit": pa.string()}
    adni = write_arrow_folder(tmp_path / "adni.toy.arrow", rows, columns)
    labels = {f"00{i}_S_6049_2020-10-12": i for i in range(3)}
    (tmp_path / "targets" / "adni_target_map_diagnosis.json").write_text(json.dumps(labels))
    arguments = [f"--input={adni}", f"--output={tmp_path / 'adni'}", "--jobs=1"]
    import_arrow.main([*arguments, f"--geometry={tmp_path / 'g.npz'}", "--trait=adni_diagnosis"])
    assert Store(tmp_path / "adni" / "test").runs[0]["diagnosis"] == 2

    with pytest.raises(InputError, match="no published trait: choose one of abide_dx"):
        read_trait("abide_iq", str(folder))
    with pytest.raises(InputError, match="folders named ppmi.SPACE.arrow"):
        read_trait("ppmi_dx", str(folder))
