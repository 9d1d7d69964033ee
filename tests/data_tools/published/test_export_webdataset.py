"""A store goes to tar shards and back, bit for bit, and others can read what we write."""

import io
import tarfile

import numpy as np
import pytest
from scipy import sparse

from data_tools import export_webdataset, import_webdataset
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from tests.data_tools.published.published_shards import bold, older, write_shard
from tests.data_tools.spaces.test_volumes import CORTEX
from tests.data_tools.store.small_stores import write_small_store

MASK = np.zeros((32, 48), bool)
MASK[3:29, 5:44] = np.random.default_rng(0).random((26, 39)) < 0.8
FLAT = Geometry("flat", MASK, (16, 16), pixel_size=1.2)


def make_store(path, geometry=FLAT, scale=True):
    event = {"onset": 1.0, "duration": 2.0, "trial_type": "a"}
    runs = {
        f"sub-0{i}_task-rest": {"subject": f"0{i}", "session": i, "task": "rest", "qc": {"x": 1.5}}
        | ({"events": [event]} if i else {})
        | ({} if scale else {"mean": None, "std": None})
        for i in range(5)
    }
    runs["sub-02_task-rest"]["missing"] = np.flatnonzero(geometry.patch_mask)[5:9]
    return write_small_store(path, runs, geometry=geometry, tr=0.72)


@pytest.mark.parametrize("form", ["older", "newer"])
def test_there_and_back(tmp_path, form, capsys):
    store = make_store(tmp_path / "store")
    shards = tmp_path / "shards"
    export_webdataset.main(
        [str(store.path), f"--output={shards}", f"--form={form}", "--runs-per-shard=2"]
    )
    assert sorted(p.name for p in shards.iterdir()) == [f"store-0000{i}.tar" for i in range(3)]
    assert "5 runs in 3 shards" in capsys.readouterr().out
    given = [f"--geometry={store.path}"]
    import_webdataset.main(
        [f"--input={shards}/*.tar", f"--output={tmp_path / 'again'}", "--jobs=1", *given]
    )
    again = Store(tmp_path / "again")
    assert len(again.runs) == 5 and again.tr == 0.72
    for i, (new, old) in enumerate(zip(again.runs, store.runs, strict=True)):
        assert (
            again.read(i, 0, old["n_frames"]).tobytes()
            == store.read(i, 0, old["n_frames"]).tobytes()
        )
        drop = {"source"} | ({"scale_crc32"} if form == "older" else set())
        expected = {"events": []} | old  # shards do not tell no events from events unknown
        assert {k: v for k, v in new.items() if k not in drop} == {
            k: v for k, v in expected.items() if k not in drop
        }
        if form == "newer":
            np.testing.assert_array_equal(again.scale(i), store.scale(i))
    twice = tmp_path / "twice"
    export_webdataset.main(
        [str(again.path), f"--output={twice}", "--form=older", "--prefix=store"]
        + ["--runs-per-shard=2"]
    )
    if form == "older":
        for path in shards.iterdir():
            assert (twice / path.name).read_bytes() == path.read_bytes()


def test_others_read_it(tmp_path):
    store = make_store(tmp_path / "store")
    export_webdataset.main(
        [f"{store.path}?subject=03", f"--output={tmp_path / 'o'}", "--form=older"]
    )
    (path,) = (tmp_path / "o").iterdir()
    with tarfile.open(path) as archive:
        names = archive.getnames()
        assert names[0] == "sub-03_task-rest.meta.json" and len(names) == 4
        archive.extractall(tmp_path, filter="data")
    mask = sparse.load_npz(tmp_path / "sub-03_task-rest.mask.npz").toarray()
    np.testing.assert_array_equal(mask, MASK)
    wds = pytest.importorskip("webdataset")
    (sample,) = wds.WebDataset(str(path), shardshuffle=False, empty_check=False).decode()
    assert sample["meta.json"]["sub"] == "03" and sample["meta.json"]["ses"] == 3
    image = np.zeros((len(sample["bold.npy"]), *MASK.shape), np.float16)
    image[:, mask] = sample["bold.npy"]
    frames = store.geometry.to_frames(store.read(3, 0, store.runs[3]["n_frames"]))
    np.testing.assert_array_equal(image, frames)


def test_volumes_come_back_but_for_voxels_they_never_had(tmp_path, capsys):
    from data_tools.spaces.volume_map import build_volume_map

    store = make_store(tmp_path / "store", build_volume_map(CORTEX).geometry)
    export_webdataset.main([str(store.path), f"--output={tmp_path / 'shards'}"])
    assert "the others are 0 in the shards" in capsys.readouterr().out
    import_webdataset.main(
        [f"--input={tmp_path}/shards/*.tar", f"--output={tmp_path / 'again'}", "--jobs=1"]
        + [f"--geometry={store.path}"]
    )
    again = Store(tmp_path / "again")
    assert [x["crc32"] for x in again.runs] == [x["crc32"] for x in store.runs]
    assert [x.get("missing") for x in again.runs] == [x.get("missing") for x in store.runs]


def test_what_cannot_be_exported_is_told(tmp_path, capsys):
    def fails(store, *arguments):
        with pytest.raises(SystemExit):
            export_webdataset.main([str(store.path), f"--output={tmp_path / 'o'}", *arguments])
        assert not (tmp_path / "o").exists()
        return capsys.readouterr().err

    store = make_store(tmp_path / "bare", scale=False)
    assert "--chain=pixel, or give --form=older" in fails(store, "--form=newer")
    parcels = Geometry("parcels", np.ones((5, 1), bool), (1, 1))
    assert "no flat map" in fails(make_store(tmp_path / "p", parcels), "--form=older")
    runs = {"a.b": {"task": "x"}, "c": {"task": "y", "age": 9}}
    dotted = write_small_store(tmp_path / "dotted", runs, geometry=FLAT, restricted=["age"])
    assert "a.b holds '/' or '.'" in fails(dotted)
    assert "without '/'" in fails(dotted, "--prefix=../x")
    # What is not exported may have any key; what others must not see is said.
    export_webdataset.main([f"{dotted.path}?task=y", f"--output={tmp_path / 'o'}"])
    assert "others must not see: age." in capsys.readouterr().out


def test_imported_shards_of_any_mask_can_be_exported(tmp_path):
    keys = ["sub-01", "sub-02"]
    write_shard(tmp_path / "a.tar", {key: older(key) for key in keys})
    store = tmp_path / "store"
    import_webdataset.main([f"--input={tmp_path}/a.tar", f"--output={store}", "--jobs=1"])
    export_webdataset.main([str(store), f"--output={tmp_path / 'o'}", "--form=older"])
    with tarfile.open(tmp_path / "o" / "store-00000.tar") as archive:
        for key in keys:
            values = np.load(io.BytesIO(archive.extractfile(f"{key}.bold.npy").read()))
            assert values.tobytes() == bold(key).tobytes()
