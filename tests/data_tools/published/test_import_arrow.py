"""Arrow folders become stores: clips and whole runs, labels, resuming, and what is wrong."""

import json
import re

import numpy as np
import pytest

from data_tools import import_arrow
from data_tools.published.arrow_rows import RowForm, arrow_source
from data_tools.published.source import PublishedRun
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store

pa = pytest.importorskip("pyarrow")
from tests.data_tools.published.arrow_folders import (  # noqa: E402
    CLIP_COLUMNS,
    GEOMETRY,
    RUN_COLUMNS,
    arrays,
    clips,
    runs,
    write_arrow,
    write_arrow_folder,
)


@pytest.fixture
def geometry(tmp_path):
    path = tmp_path / "geometry.npz"
    path.write_bytes(GEOMETRY.to_bytes())
    return f"--geometry={path}"


def run(*arguments):
    import_arrow.main([*map(str, arguments), "--jobs=1"])


def fails(capsys, output, *arguments):
    with pytest.raises(SystemExit) as exit_:
        run(*arguments, f"--output={output}")
    assert exit_.value.code == 1
    (line,) = re.findall("error: .*", capsys.readouterr().err)
    assert not [path for path in output.rglob("*") if path.is_file()]
    assert line.count(". ") == 0 and line.endswith(".")
    return line


def all_bytes(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_clips_get_an_event_and_every_split_a_store(tmp_path, geometry, capsys):
    splits = {
        "train": clips(1) + clips(2),
        "validation": clips(3),
        "test": clips(4),
        "testid": clips(5),
    }
    folder = write_arrow_folder(tmp_path / "task21.toy.arrow", splits, CLIP_COLUMNS)
    run(f"--input={folder}", f"--output={tmp_path / 'dry'}", geometry, "--dry-run")
    assert "8 runs, 128 frames" in capsys.readouterr().out and not (tmp_path / "dry").exists()
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(splits)
    for split, rows in splits.items():
        store = Store(tmp_path / "out" / split)
        assert store.tr == 1.0 and len(store.runs) == len(rows) and store.has_scale
        by_key = {line["key"]: i for i, line in enumerate(store.runs)}
        for row in rows:
            key = f"sub-{row['sub']}_mod-tfMRI_task-MOTOR_start-{int(row['start']):05d}"
            i = by_key[f"{key}_cond-{row['cond']}"]
            line = store.runs[i]
            assert store.read(i, 0, 16)[..., 0].tobytes() == row["bold"].tobytes()
            np.testing.assert_array_equal(store.scale(i)[1][:, 0], row["std"][0])
            event = {"onset": 0.0, "duration": 16.0, "trial_type": row["cond"]}
            assert line["events"] == [event | {"cond": row["cond"], "cond_id": row["cond_id"]}]
            assert (line["subject"], line["cond"], line["start"]) == (
                row["sub"], row["cond"], row["start"]
            )  # fmt: skip
            assert line["dataset"] == "task21"
    out = capsys.readouterr().out
    assert "train               8          128         2  cond 2, cond_id 2\n" in out

    run(f"--input={folder}", f"--output={tmp_path / 'some'}", geometry, "--splits=test,train")
    assert sorted(p.name for p in (tmp_path / "some").iterdir()) == ["test", "train"]


def test_whole_runs_keep_their_tr_and_carry_labels_in_the_run_table(tmp_path, geometry):
    folder = write_arrow_folder(
        tmp_path / "abide.toy.arrow", {"train": runs(range(3))}, RUN_COLUMNS
    )
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    store = Store(tmp_path / "out" / "train")
    assert store.tr == 2.0 and [line["key"] for line in store.runs][0] == "sub-000_ses-1"
    line = store.runs[1]
    assert (line["dx"], line["age"], line["site"]) == (1, 21.1, "a") and "events" not in line
    run(f"--input={folder}", f"--output={tmp_path / 'one'}", geometry, "--target-tr=1")
    store = Store(tmp_path / "one" / "train")
    assert store.tr == 1.0 and store.runs[0]["n_frames"] == 60
    run(f"--input={folder}", f"--output={tmp_path / 'as'}", geometry, "--as=clips")
    events = Store(tmp_path / "as" / "train").runs[1]["events"]
    assert events == [{"onset": 0.0, "duration": 60.0, "dx": 1, "age": 21.1}]


def test_a_folder_that_is_one_split_and_the_file_format(tmp_path, geometry):
    folder = tmp_path / "rest.arrow"
    folder.mkdir()
    for name, subjects in (("b", (1, 2)), ("a", (3,))):
        write_arrow(folder / f"{name}.arrow", runs(subjects), RUN_COLUMNS, file_format=name == "a")
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    store = Store(tmp_path / "out")
    assert [line["source"] for line in store.runs] == ["b.arrow", "b.arrow", "a.arrow"]


def test_saved_by_the_library_itself(tmp_path, geometry):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "sub": datasets.Value("string"),
            "dx": datasets.ClassLabel(names=["control", "patient"]),
            "tr": datasets.Value("float32"),
            "bold": datasets.Array2D(shape=(None, 40), dtype="float16"),
            "mean": datasets.Array2D(shape=(1, 40), dtype="float32"),
            "std": datasets.Array2D(shape=(1, 40), dtype="float32"),
        }
    )
    rows = [{name: row[name] for name in features} for row in runs(range(5), tr=0.72)]
    data = {
        split: datasets.Dataset.from_list(some, features=features)
        for split, some in (("train", rows[:3]), ("test", rows[3:]))
    }
    datasets.DatasetDict(data).save_to_disk(
        tmp_path / "d.arrow", num_shards={"train": 2, "test": 1}
    )
    run(f"--input={tmp_path / 'd.arrow'}", f"--output={tmp_path / 'out'}", geometry)
    store = Store(tmp_path / "out" / "train")
    assert [line["dx"] for line in store.runs] == ["control", "patient", "control"]
    assert store.tr == 0.72
    for i, row in enumerate(rows[:3]):
        assert store.read(i, 0, 30)[..., 0].tobytes() == row["bold"].tobytes()
    picked = data["train"].select([2, 0])
    picked.save_to_disk(tmp_path / "picked.arrow")
    run(f"--input={tmp_path / 'picked.arrow'}", f"--output={tmp_path / 'p'}", geometry)
    assert [line["subject"] for line in Store(tmp_path / "p").runs] == ["000", "002"]


def test_labels_from_a_file_beside(tmp_path, geometry, capsys):
    columns = {"sub": pa.string(), "visit": pa.string()}
    rows = [{"sub": "168S6049", "visit": f"2020101{i}", "tr": 3.0, **arrays(i, 20)} for i in (2, 3)]
    folder = write_arrow_folder(tmp_path / "adni.toy.arrow", {"train": rows}, columns)
    path = tmp_path / "dx.json"
    path.write_text(json.dumps({"168_S_6049_2020-10-12": 1, "168_S_6049_2020-10-13": 0}))
    join = f"--join=ad={path}@sub+visit"
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry, join)
    store = Store(tmp_path / "out" / "train")
    assert [(line["session"], line["ad"]) for line in store.runs] == [
        ("20201012", 1),
        ("20201013", 0),
    ]

    path.write_text(json.dumps({"168_S_6049_2020-10-12": 1}))
    arguments = (f"--input={folder}", geometry, join)
    line = fails(capsys, tmp_path / "no", *arguments)
    assert "'ad' is missing in 1 of 2 rows of the split 'train'" in line
    run(*arguments, f"--output={tmp_path / 'drop'}", "--unlabelled=drop")
    assert len(Store(tmp_path / "drop" / "train").runs) == 1
    assert "left out: 1 of 2" in capsys.readouterr().out
    run(*arguments, f"--output={tmp_path / 'keep'}", "--unlabelled=keep")
    assert ["ad" in line for line in Store(tmp_path / "keep" / "train").runs] == [True, False]
    for wrong in ("ad", f"ad={tmp_path}/none.json", f"ad={folder}/train/state.json@"):
        assert "--join" in fails(capsys, tmp_path / "w", f"--input={folder}", f"--join={wrong}")


def test_only_the_labels_that_are_asked_for_must_be_there(tmp_path, geometry, capsys):
    rows = runs(range(4))
    rows[2]["age"] = None
    rows[3]["age"] = float("nan")
    folder = write_arrow_folder(tmp_path / "d.arrow", {"train": rows}, RUN_COLUMNS)
    line = fails(capsys, tmp_path / "out", f"--input={folder}", geometry)
    assert "'age' is missing in 2 of 4 rows" in line and "--labels" in line
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry, "--labels=dx")
    assert ["age" in line for line in Store(tmp_path / "out/train").runs] == [
        True,
        True,
        False,
        False,
    ]
    line = fails(capsys, tmp_path / "no", f"--input={folder}", geometry, "--labels=iq")
    assert "no column 'iq' for a label: choose one of dx, age" in line


def test_a_second_call_goes_on_with_the_splits_that_are_left(
    tmp_path, geometry, capsys, monkeypatch
):
    splits = {"test": runs(range(4, 6)), "train": runs(range(4))}
    folder = write_arrow_folder(tmp_path / "d.arrow", splits, RUN_COLUMNS)
    import_arrow.main([f"--input={folder}", f"--output={tmp_path / 'whole'}", geometry, "--jobs=2"])

    make, n_made = RowForm.run, []

    def killed(self, row, arrays):
        n_made.append(row["sub"])
        if len(n_made) == 1 + 2 + 3:  # the first run is read to see what there is
            raise KeyboardInterrupt
        return make(self, row, arrays)

    monkeypatch.setattr(RowForm, "run", killed)
    with pytest.raises(SystemExit):
        run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["test", "train.partial"]
    monkeypatch.setattr(RowForm, "run", make)
    with pytest.raises(SystemExit):
        run(
            f"--input={folder}",
            f"--output={tmp_path / 'out'}",
            geometry,
            "--splits=train",
            "--labels=dx",
        )
    assert "was begun with another preprocessing" in capsys.readouterr().err
    capsys.readouterr()
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    assert "test was imported before: it stays." in capsys.readouterr().out
    assert all_bytes(tmp_path / "out") == all_bytes(tmp_path / "whole")


def test_a_store_stays_only_if_it_would_be_the_same(tmp_path, geometry, capsys):
    labels = tmp_path / "iq.json"
    labels.write_text(json.dumps({f"{i:03d}": i for i in range(2)}))
    folder = write_arrow_folder(tmp_path / "d.arrow", {"train": runs(range(2))}, RUN_COLUMNS)
    arguments = (f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    arguments += (f"--join=iq={labels}",)
    run(*arguments)
    run(*arguments)
    assert "it stays" in capsys.readouterr().out

    def differs(*more):
        with pytest.raises(SystemExit):
            run(*arguments, *more)
        assert "exists already" in capsys.readouterr().err

    options = "--labels=dx --dataset=x --as=clips --restricted=age --missing=ignore --target-tr=1"
    for option in options.split():
        differs(option)
    (tmp_path / "other.npz").write_bytes(Geometry("toy", np.ones((20, 2), bool), (2, 2)).to_bytes())
    differs(f"--geometry={tmp_path / 'other.npz'}")
    labels.write_text(json.dumps({f"{i:03d}": i + 5 for i in range(2)}))
    differs()
    run(*arguments, "--overwrite")
    assert [line["iq"] for line in Store(tmp_path / "out/train").runs] == [5, 6]
    resampled = (f"--output={tmp_path / 'resampled'}", "--target-tr=1")
    run(*arguments, *resampled)
    differs(*resampled, "--target-tr=1.5")
    differs(*resampled, "--kind=pchip")
    longer = [runs([0])[0] | arrays(0, 50)]
    write_arrow(folder / "train" / "data-00000-of-00002.arrow", longer, RUN_COLUMNS)
    differs()


def test_nothing_is_written_if_a_later_split_cannot_be(tmp_path, geometry, capsys):
    narrow = runs([3])
    narrow[0] |= {name: narrow[0][name][:, :30] for name in ("bold", "mean", "std")}
    unlabelled, timeless = runs([4]), runs([5, 6])
    unlabelled[0]["dx"], timeless[0]["tr"] = None, None
    told = {
        "bold of 30 columns and its space 'toy' has 40": narrow,
        "All rows of the split 'val' lack a label, such as 'dx'": unlabelled,
        "The TR is missing in 1 of 2 rows of the split 'val'": timeless,
        "The split 'val' has no row": [],
        "sub-007_ses-1 is in val/data-00001-of-00002.arrow and in val/data-00000": runs([7, 7]),
    }
    for number, (sentence, rows) in enumerate(told.items()):
        splits = {"train": runs([1, 2]), "val": rows}
        folder = write_arrow_folder(tmp_path / f"{number}", splits, RUN_COLUMNS)
        arguments = (f"--input={folder}", geometry, "--unlabelled=drop")
        assert sentence in fails(capsys, tmp_path / "out", *arguments)


def test_splits_may_differ_in_tr(tmp_path, geometry):
    splits = {"train": runs([1], 2.0), "test": runs([2], 3.0)}
    folder = write_arrow_folder(tmp_path / "d.arrow", splits, RUN_COLUMNS)
    run(f"--input={folder}", f"--output={tmp_path / 'out'}", geometry)
    assert [Store(tmp_path / "out" / split).tr for split in splits] == [2.0, 3.0]


def test_a_folder_elsewhere_makes_the_same_bytes(tmp_path, geometry):
    pytest.importorskip("fsspec")
    splits = {"train": runs([1, 2]), "test": runs([3])}
    folder = write_arrow_folder(tmp_path / "d.arrow", splits, RUN_COLUMNS)
    run(f"--input={folder}", f"--output={tmp_path / 'here'}", geometry)
    run(f"--input=file://{folder}", f"--output={tmp_path / 'there'}", geometry)
    assert all_bytes(tmp_path / "here") == all_bytes(tmp_path / "there")


def test_what_is_damaged_is_told_or_skipped(tmp_path, geometry, capsys):
    folder = write_arrow_folder(tmp_path / "d.arrow", {"train": runs(range(8))}, RUN_COLUMNS)
    path = folder / "train" / "data-00001-of-00002.arrow"
    whole, first_batch = path.read_bytes(), 3
    begun = len(write_arrow(tmp_path / "one", runs(range(first_batch)), RUN_COLUMNS).read_bytes())
    # In the schema, between two batches, in one, before the end, and without the mark of the end.
    for size in (300, begun - 8, begun + 2000, len(whole) - 40, len(whole) - 8):
        path.write_bytes(whole[:size])
        arguments = (f"--input={folder}", geometry)
        line = fails(capsys, tmp_path / "out", *arguments)
        assert "train/data-00001-of-00002.arrow is" in line and "truncated" in line
    path.write_bytes(whole[: begun + 2000])
    run(*arguments, f"--output={tmp_path / 'out'}", "--skip-damaged")
    store = Store(tmp_path / "out" / "train")
    assert len(store.runs) == 4 + first_batch and "Left out: 1" in capsys.readouterr().out
    assert "truncated" in (store.path / "skipped.jsonl").read_text()
    path.with_name("data-00000-of-00002.arrow").write_bytes(b"no arrow")
    run(*arguments, f"--output={tmp_path / 'less'}", "--skip-damaged")
    assert len(Store(tmp_path / "less" / "train").runs) == first_batch


def test_restricted_fields_are_checked_and_stay_out_of_events(tmp_path, geometry, capsys):
    folder = write_arrow_folder(tmp_path / "d.arrow", {"train": clips(1)}, CLIP_COLUMNS)
    arguments = (f"--input={folder}", geometry)
    line = fails(capsys, tmp_path / "no", *arguments, "--restricted=task,conds")
    assert "No row has a field 'conds' to restrict" in line
    run(*arguments, f"--output={tmp_path / 'out'}", "--restricted=path,cond")
    store = Store(tmp_path / "out" / "train")
    assert store.restricted == {"path", "cond"} and store.runs[0]["cond"] == "rh"
    assert store.runs[0]["events"] == [{"onset": 0.0, "duration": 16.0, "cond_id": 7}]


def test_bad_folders_are_told_in_one_sentence(tmp_path, geometry, capsys):
    good = write_arrow_folder(tmp_path / "good", {"train": runs(range(2))}, RUN_COLUMNS)

    def told(change, *more):
        folder = write_arrow_folder(
            tmp_path / f"d{len(list(tmp_path.iterdir()))}", {"train": runs(range(2))}, RUN_COLUMNS
        )
        change(folder / "train")
        return fails(capsys, tmp_path / "out", f"--input={folder}", geometry, *more)

    first = "data-00000-of-00002.arrow"
    line = told(lambda split: (split / first).unlink())
    assert first in line and "is missing" in line
    line = told(lambda split: (split / first).write_bytes((split / first).read_bytes()[:900]))
    assert f"train/{first}" in line and "damaged or truncated" in line
    line = told(lambda split: (split / first).write_bytes(b"no arrow at all"))
    assert "no Arrow file" in line

    def write(split, table):
        with pa.OSFile(str(split / first), "wb") as sink:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)

    assert "no column 'bold', only text" in told(lambda s: write(s, pa.table({"text": ["a"]})))
    flat = pa.table({"bold": [[1.0, 2.0]], "tr": [1.0]})
    assert "'bold' of train" in told(lambda s: write(s, flat))
    no_tr = pa.table({"bold": pa.array([[[1.0, 2.0]]], pa.list_(pa.list_(pa.float32())))})
    assert "no column 'tr'" in told(lambda s: write(s, no_tr))
    ragged = {
        "bold": pa.array([[[1.0, 2.0], [1.0]]], pa.list_(pa.list_(pa.float32()))),
        "tr": [2.0],
    }
    assert "not frames x columns" in told(lambda s: write(s, pa.table(ragged | {"dx": [1]})))
    ragged["bold"] = pa.array([[[1.0] * 30, [1.0] * 50]], ragged["bold"].type)  # 2 x 40 in all
    assert "not frames x columns" in told(lambda s: write(s, pa.table(ragged)))
    texts = pa.table({"bold": ragged["bold"], "tr": ["2 s"]})
    assert "not seconds" in told(lambda s: write(s, texts))

    for key in ("../evil", "a/b", "..", "a\x1bb"):
        rows = [runs([1])[0] | {"key": key}]
        named = write_arrow_folder(
            tmp_path / f"key{len(list(tmp_path.iterdir()))}",
            {"train": rows},
            RUN_COLUMNS | {"key": pa.string()},
            n_files=1,
        )
        line = fails(capsys, tmp_path / "out", f"--input={named}", geometry)
        assert f"the run key {key!r} cannot name a file" in line
    split = f"../{named.name}/train"
    (named / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
    line = fails(capsys, tmp_path / "out", f"--input={named}", geometry)
    assert f"the split {split!r} cannot name a file" in line
    latin = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    )
    one = {"bold": pa.array([[[1.0] * 40]], ragged["bold"].type), "tr": [2.0], "key": latin}
    assert "column 'key' of train/data-00000-of-00002.arrow is not UTF-8" in told(
        lambda s: write(s, pa.table(one))
    )

    twice = write_arrow_folder(tmp_path / "twice", {"train": runs([1, 1])}, RUN_COLUMNS)
    line = fails(capsys, tmp_path / "out", f"--input={twice}", geometry)
    assert "sub-001_ses-1" in line
    mixed = write_arrow_folder(
        tmp_path / "mixed", {"train": runs([1], 2.0) + runs([2], 3.0)}, RUN_COLUMNS
    )
    line = fails(capsys, tmp_path / "out", f"--input={mixed}", geometry)
    assert "TRs of 2 to 3 s" in line and "--target-tr" in line
    slow = write_arrow_folder(
        tmp_path / "slow", {"train": runs([1], 2.0) + runs([2], 720.0)}, RUN_COLUMNS
    )
    for more in ((), ("--target-tr=1",), ("--dry-run", "--target-tr=1")):
        line = fails(capsys, tmp_path / "out", f"--input={slow}", geometry, *more)
        assert "TR of the split 'train' is 720 s, where 0.05 to 20 s is possible" in line
    assert "no split 'dev': choose one of train" in fails(
        capsys, tmp_path / "out", f"--input={good}", "--splits=dev"
    )
    assert "leave out --splits" in fails(
        capsys, tmp_path / "out", f"--input={good}/train", "--splits=train"
    )
    state = good / "train" / "state.json"
    saved = json.loads(state.read_text())
    state.write_text(json.dumps(saved | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "selection of rows" in fails(capsys, tmp_path / "out", f"--input={good}")
    state.write_text(json.dumps({"_split": "train"}))
    assert "lists no files" in fails(capsys, tmp_path / "out", f"--input={good}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "d.arrow").mkdir()
    assert "holds no Arrow file" in fails(capsys, tmp_path / "out", f"--input={tmp_path}/empty")
    clips_ = write_arrow_folder(tmp_path / "clips", {"train": clips(1)}, CLIP_COLUMNS)
    line = fails(capsys, tmp_path / "out", f"--input={clips_}", geometry, "--target-tr=2")
    assert "no published clip" in line


def test_frames_come_from_the_file_itself_and_are_not_copied(tmp_path):
    path = write_arrow(tmp_path / "a.arrow", runs(range(5)), RUN_COLUMNS, batch=2)
    source = arrow_source("", str(path), RowForm())
    found = list(source.read())
    assert [type(run) for run in found] == [PublishedRun] * 5
    for row, run_ in zip(runs(range(5)), found, strict=True):
        np.testing.assert_array_equal(run_.bold_TxC, row["bold"])
        assert not run_.bold_TxC.flags.owndata and not run_.bold_TxC.flags.writeable
    assert [size[1:] for size in source.scan()] == [(30, 40)] * 5
