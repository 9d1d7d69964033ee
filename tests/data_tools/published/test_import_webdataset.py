"""Published shards become stores: both forms, clips, resuming, and what is wrong with them."""

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile

import numpy as np
import pytest

from data_tools import import_webdataset
from data_tools.errors import InputError
from data_tools.published.webdataset import read_shard, scan_shard
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from tests.data_tools.published.published_shards import (
    MASK,
    N_COLUMNS,
    bold,
    mask_npz,
    newer,
    npy,
    older,
    write_shard,
)

GEOMETRY = Geometry("toy", MASK, (16, 16), pixel_size=1.0)


def run(*arguments):
    import_webdataset.main([*map(str, arguments), "--jobs=1"])


def fails(capsys, output, *arguments):
    """The one sentence that a failing import prints; it leaves nothing behind."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(SystemExit) as exit_:
        run(*arguments, f"--output={output}")
    assert exit_.value.code == 1
    (line,) = re.findall("error: .*", capsys.readouterr().err)
    assert sorted(output.parent.iterdir()) == before
    assert line.count(". ") == 0 and line.endswith(".")
    return line


@pytest.fixture
def geometry(tmp_path):
    path = tmp_path / "geometry.npz"
    path.write_bytes(GEOMETRY.to_bytes())
    return path


def all_bytes(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_older_shards_bring_their_mask(tmp_path, capsys):
    for i in range(2):
        keys = [f"sub-0{2 * i + j}" for j in range(2)]
        write_shard(tmp_path / f"hcp-flat_000{i}.tar", {key: older(key) for key in keys})
    pattern = f"--input={tmp_path}/hcp-flat_{{0000..0001}}.tar"
    run(pattern, f"--output={tmp_path / 'dry'}", "--dry-run")
    out = capsys.readouterr().out
    assert "4 runs, 80 frames" in out and "sub-03  20 frames" in out
    assert not (tmp_path / "dry").exists()

    run(pattern, f"--output={tmp_path / 'store'}", "--dataset=hcp")
    store = Store(tmp_path / "store")
    assert [line["key"] for line in store.runs] == [f"sub-0{i}" for i in range(4)]
    np.testing.assert_array_equal(store.geometry.mask, MASK)
    for i, line in enumerate(store.runs):
        pixels = store.geometry.patches_to_pixels(store.read(i, 0, 20))
        assert pixels.tobytes() == bold(line["key"]).tobytes()
    first = store.runs[0]
    assert (first["dataset"], first["subject"], first["mod"]) == ("hcp", "00", "tfMRI")
    assert first["source"] == "hcp-flat_0000.tar" and store.tr == first["tr"] == 1.0
    event = {"onset": 2.5, "duration": 3.0, "trial_type": "lf", "value": None}
    assert first["events"] == [event]
    assert store.missing(0).tolist() == [store.geometry._pixel_offset[0]]
    assert store.preprocessing["chain"] == "vertex" and not store.has_scale

    run(pattern, f"--output={tmp_path / 'zeros'}", "--missing=ignore", "--tr=2", "--patch-size=8")
    store = Store(tmp_path / "zeros")
    assert store.missing(0) is None and store.tr == 2.0 and store.geometry.patch_shape == (8, 8)


def test_newer_shards_need_a_geometry_and_keep_the_scale(tmp_path, geometry):
    runs = {f"sub-0{i}": newer(f"sub-0{i}", 30) for i in range(3)}
    write_shard(tmp_path / "a.tar", runs, folder="train/")
    run(f"--input={tmp_path}/*.tar", f"--output={tmp_path / 's'}", f"--geometry={geometry}")
    store = Store(tmp_path / "s")
    assert store.tr == 0.72 and store.runs[0]["session"] == "1" and "events" not in store.runs[0]
    mean = np.load(io.BytesIO(runs["sub-00"]["mean.npy"]))[0]
    np.testing.assert_array_equal(store.geometry.patches_to_pixels(store.scale(0)[0]), mean)
    assert store.preprocessing["chain"] == "pixel"

    out = tmp_path / "small"
    run(f"--input={tmp_path}/a.tar", f"--output={out}", f"--geometry={geometry}", "--patch-size=8")
    assert Store(out).geometry.patch_shape == (8, 8)

    out = tmp_path / "resampled"
    run(f"--input={tmp_path}/a.tar", f"--output={out}", f"--geometry={geometry}", "--target-tr=1")
    store = Store(out)
    assert store.tr == 1.0 and store.runs[0]["n_frames"] == round(0.72 * 30)


def test_other_spaces_are_told_by_their_width(tmp_path):
    write_shard(tmp_path / "a.tar", {"sub-01": newer("sub-01", 20, 400)})
    run(f"--input={tmp_path}/a.tar", f"--output={tmp_path / 's'}")
    store = Store(tmp_path / "s")
    assert store.geometry.space == "schaefer400"
    np.testing.assert_array_equal(store.read(0, 0, 20)[..., 0], bold("sub-01", 20, 400))


def test_a_killed_import_goes_on_with_other_shards(tmp_path, monkeypatch):
    for i in range(3):
        keys = [f"sub-{i}{j}" for j in range(2)]
        write_shard(tmp_path / f"s{i}.tar", {key: older(key) for key in keys})
    pattern = f"--input={tmp_path}/s?.tar"
    import_webdataset.main([pattern, f"--output={tmp_path / 'whole'}", "--jobs=2"])

    add, added = StoreWriter.add, []

    def add_some(self, key, *args, **fields):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(key)
        return add(self, key, *args, **fields)

    monkeypatch.setattr(StoreWriter, "add", add_some)
    with pytest.raises(SystemExit):
        run(pattern, f"--output={tmp_path / 'store'}")
    assert added == ["sub-00", "sub-01", "sub-10"] and not (tmp_path / "store").exists()

    monkeypatch.setattr(StoreWriter, "add", add)
    read, places = import_webdataset.read_shard, []

    def read_and_note(place, tr):
        places.append(place[-6:])
        return read(place, tr)

    monkeypatch.setattr(import_webdataset, "read_shard", read_and_note)
    (tmp_path / "s0.tar").write_bytes(b"gone")  # it is not needed any more
    monkeypatch.setattr(import_webdataset, "first_run", lambda *_: next(read(places_of(1), None)))

    def places_of(i):
        return str(tmp_path / f"s{i}.tar")

    run(pattern, f"--output={tmp_path / 'store'}")
    assert places == ["s1.tar", "s2.tar"]
    assert all_bytes(tmp_path / "store") == all_bytes(tmp_path / "whole")


def truncated(path, at):
    data = path.read_bytes()
    path.write_bytes(data[:at])


@pytest.mark.parametrize("member", ["meta.json", "events.json", "bold.npy", "mask.npz"])
def test_a_missing_member(tmp_path, capsys, member):
    broken = older("sub-01")
    del broken[member]
    write_shard(tmp_path / "a.tar", {"sub-00": older("sub-00"), "sub-01": broken})
    line = fails(capsys, tmp_path / "s", f"--input={tmp_path}/a.tar")
    assert "sub-01" in line and member in line and "a.tar" in line


@pytest.mark.parametrize("member", ["mean.npy", "std.npy"])
def test_a_missing_scale(tmp_path, capsys, geometry, member):
    broken = newer("sub-01")
    del broken[member]
    write_shard(tmp_path / "a.tar", {"sub-00": newer("sub-00"), "sub-01": broken})
    line = fails(capsys, tmp_path / "s", f"--input={tmp_path}/a.tar", f"--geometry={geometry}")
    assert "sub-01" in line and member in line


@pytest.mark.parametrize("cut", ["in the data", "in a header", "between members", "at the end"])
def test_a_truncated_tar(tmp_path, capsys, cut):
    path = write_shard(tmp_path / "a.tar", {f"sub-0{i}": older(f"sub-0{i}") for i in range(2)})
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    at = {
        "in the data": members[6].offset_data + 1000,
        "in a header": members[6].offset + 100,
        "between members": members[4].offset,  # the first run is whole
        "at the end": members[-1].offset_data + -(-members[-1].size // 512) * 512,
    }[cut]
    truncated(path, at)
    line = fails(capsys, tmp_path / "s", f"--input={path}")
    assert "a.tar" in line and "truncated" in line


def test_columns_of_nan_in_every_frame_are_missing(tmp_path):
    values = bold("a")
    values[:, 7] = np.nan
    write_shard(tmp_path / "a.tar", {"a": older("a") | {"bold.npy": npy(values)}})
    run(f"--input={tmp_path}/a.tar", f"--output={tmp_path / 's'}")
    store = Store(tmp_path / "s")
    lost = store.geometry.from_columns(np.isin(np.arange(N_COLUMNS), (0, 7)))
    np.testing.assert_array_equal(store.missing(0), np.flatnonzero(lost))
    values[:, 7] = 0
    pixels = store.geometry.patches_to_pixels(store.read(0, 0, 20))
    np.testing.assert_array_equal(pixels, values)


def test_events_outside_of_their_run_or_without_an_onset_are_counted(tmp_path, capsys):
    onsets = [3, 20.0, None, float("nan"), 19.9999999, 0]
    events = json.dumps([{"onset": onset, "duration": None} for onset in onsets]).encode()
    runs = {"a": older("a") | {"events.json": events}, "b": older("b")}
    write_shard(tmp_path / "a.tar", runs)
    run(f"--input={tmp_path}/a.tar", f"--output={tmp_path / 's'}")
    remark = "a.tar: left out 3 events, without an onset or outside of their run, such as of a\n"
    assert remark in capsys.readouterr().err
    first, second = Store(tmp_path / "s").runs
    assert [event["onset"] for event in first["events"]] == [3, 19.9999999, 0]
    assert first["qc"] == {"events_outside": 3} and "qc" not in second


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_shards_joined_to_one_file_are_read_to_its_last_byte(tmp_path, pack):
    path, names = tmp_path / "a.tar", ("ab", "cd")
    tars = [write_shard(path, {key: older(key) for key in some}).read_bytes() for some in names]
    cut = tars[0][:1000], tars[0][1000:]  # members of a pack need not end where tars end
    for parts, n_zeros in ((tars, 0), ((*cut, tars[1]), 700)):
        path.write_bytes(b"".join(map(pack, parts)) + bytes(n_zeros))
        runs = list(read_shard(str(path), None))
        assert "".join(run.key for run in runs) == "abcd"
        assert all(np.array_equal(run.bold_TxC, bold(run.key)) for run in runs)
        assert [key for key, *_ in scan_shard(str(path))] == list("abcd")
    for rest in (b"\n", b"x" * 1024, tars[1][:3000]):
        for data in (pack(tars[0]) + rest, pack(tars[0] + rest)):
            path.write_bytes(data)
            for read in (scan_shard, lambda place: read_shard(place, None)):
                with pytest.raises(InputError, match="a.tar is no tar, or is damaged"):
                    list(read(str(path)))


def test_what_else_is_wrong_is_told_in_one_sentence(tmp_path, capsys, geometry):
    good, path = older("sub-00"), tmp_path / "a.tar"

    def told(runs, *more):
        write_shard(path, runs)
        return fails(capsys, tmp_path / "s", f"--input={path}", *more)

    narrow = good | {"bold.npy": npy(bold("sub-01", 20, N_COLUMNS - 1))}
    line = told({"sub-00": good, "sub-01": narrow})
    assert f"{N_COLUMNS - 1:,} columns and its space 'flat' has {N_COLUMNS:,}" in line
    assert f"{N_COLUMNS - 1:,} columns and its mask {N_COLUMNS:,}" in told({"sub-01": narrow})
    line = told({"sub-01": newer("sub-01", 20, 39)}, f"--geometry={geometry}")
    assert f"39 columns and its space 'toy' has {N_COLUMNS:,}" in line
    assert "no published space: give --geometry" in told({"a": newer("a", 20, 2001)})
    other = MASK.copy()
    other[3], other[4] = MASK[4], MASK[3]
    line = told({"sub-00": good, "sub-01": older("sub-01") | {"mask.npz": mask_npz(other)}})
    assert "sub-01" in line and "another mask" in line
    nan = bold("sub-01")
    nan[3, 4] = np.nan
    assert "NaN" in told({"sub-01": good | {"bold.npy": npy(nan)}})
    assert "float64" in told({"a": good | {"bold.npy": npy(nan.astype(float))}})
    assert "damaged" in told({"a": good | {"bold.npy": good["bold.npy"][:-9]}})
    assert "metadata" in told({"a": good | {"meta.json": b"[1]"}})
    assert "events" in told({"a": good | {"events.json": b"{}"}})
    for tr in (b'"1 s"', b"-1", b"true", b"1" + 400 * b"0"):
        assert "no number as TR" in told({"a": good | {"meta.json": b'{"tr": ' + tr + b"}"}})
    for array in (bold("a")[0], np.float16(1), np.ones((2, 3, 4), np.float16)):
        line = told({"sub-00": good, "sub-01": good | {"bold.npy": npy(array)}})
        assert "not frames x columns" in line and "sub-01" in line
    garbled = good["bold.npy"][:11] + b"(((" + good["bold.npy"][14:]
    assert "bold of Run a of a.tar is damaged" in told({"a": good | {"bold.npy": garbled}})
    large = npy(1e6 * bold("a").astype(np.float32))
    assert "too large for float16" in told({"a": good | {"bold.npy": large}})
    words = newer("a") | {"mean.npy": npy(np.array(["x"] * N_COLUMNS))}
    assert "mean of Run a of a.tar is <U1" in told({"a": words}, f"--geometry={geometry}")
    line = told({"a": older("a", tr=0.72), "b": newer("b")})
    assert "Run b of a.tar has a mean" in line and "one form at a time" in line
    assert "is a directory without clips" in fails(capsys, tmp_path / "s", f"--input={tmp_path}")
    assert "mask of Run a" in told({"a": good | {"mask.npz": b"PK no"}})
    assert "holds no run" in told({})
    assert "is zero everywhere" in told({"a": good | {"bold.npy": npy(0 * bold("a"))}})
    for key in ("a\\b", "a\nb", "a\udcff", "k" * 201):  # bytes that are not UTF-8 are escaped
        assert f"In a.tar the run key {key!r} cannot name a file" in told({key: good})
    for more in ((), ("--target-tr=1",), ("--dry-run",)):
        line = told({"a": older("a", tr=720)}, *more)
        assert "is 720 s, where 0.05 to 20 s is possible: correct it at its source" in line
    assert "run b of a.tar is 720 s" in told({"a": good, "b": older("b", tr=720)}).lower()
    run(f"--input={path}", f"--output={tmp_path / 's'}", "--dry-run")
    assert "b  cannot be imported: The TR of Run b of a.tar is 720 s" in capsys.readouterr().out
    for flag in ("--tr", "--target-tr"):
        assert f"{flag} is 1400 s, where 0.05" in told({"a": good}, f"{flag}=1400")
    for event in ({"duration": 3}, {"onset": "2.5"}, {"onset": True}):
        line = told({"a": good | {"events.json": json.dumps([event]).encode()}})
        assert "Run a of a.tar has an event with" in line and "onset" in line
    late = json.dumps(
        [{"onset": 2500, "duration": 3}, {"onset": 0, "duration": 1}] * 2 + [{"onset": -1}]
    )
    line = told({"a": good | {"events.json": late.encode()}})
    assert "lasts 20 s and 3 of its 5 events are outside of it, such as one at 2500 s" in line
    path.write_bytes(b"not a tar" * 200)
    assert "no tar" in fails(capsys, tmp_path / "s", f"--input={path}")
    assert "does not exist" in fails(capsys, tmp_path / "s", f"--input={tmp_path}/none.tar")


def coo(row, column, shape):
    """A mask.npz of these entries."""
    buffer = io.BytesIO()
    values = {"row": row, "col": column, "data": np.ones(len(row), bool), "shape": shape}
    np.savez_compressed(buffer, **values, format=np.array(b"coo"))
    return buffer.getvalue()


def test_masks_that_are_out_to_do_harm_are_refused(tmp_path, capsys):
    row, column = np.nonzero(MASK)
    many = np.zeros(12_000_000, np.int64)  # 96 MB in a file of 0.1
    for mask in (
        coo(row - 32, column, MASK.shape),  # from the other end
        coo(row, column, (2**20, 2**20)),
        coo(many, many, MASK.shape),
    ):
        write_shard(tmp_path / "a.tar", {"a": older("a") | {"mask.npz": mask}})
        line = fails(capsys, tmp_path / "s", f"--input={tmp_path}/a.tar")
        assert "mask of Run a of a.tar is damaged" in line


def test_fields_are_restricted_by_name(tmp_path, capsys):
    write_shard(tmp_path / "a.tar", {"a": older("a", age=30, sex="F", self="x")})
    run(f"--input={tmp_path}/a.tar", f"--output={tmp_path / 's'}", "--restricted=age,sex")
    store = Store(tmp_path / "s")
    assert store.restricted == {"age", "sex"} and store.runs[0]["self"] == "x"
    line = fails(capsys, tmp_path / "t", f"--input={tmp_path}/a.tar", "--restricted=agee")
    assert "no field 'agee' to restrict: choose one of age," in line


def test_a_dry_run_counts_frames_after_resampling(tmp_path, geometry, capsys):
    write_shard(tmp_path / "a.tar", {"a": newer("a", 30)})
    given = (f"--input={tmp_path}/a.tar", f"--geometry={geometry}", "--target-tr=1")
    run(*given, f"--output={tmp_path / 's'}", "--dry-run")
    out = capsys.readouterr().out
    run(*given, f"--output={tmp_path / 's'}")
    assert f"a  {Store(tmp_path / 's').runs[0]['n_frames']} frames" in out


@pytest.mark.parametrize("name", ["../evil.bold.npy", "/abs.bold.npy", "a/../../b.bold.npy"])
def test_names_that_lead_out_of_the_tar_are_refused(tmp_path, capsys, name):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    assert "leads out of it" in fails(capsys, tmp_path / "s", f"--input={tmp_path}/a.tar")


def test_links_are_refused(tmp_path, capsys):
    info = tarfile.TarInfo("a.bold.npy")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    assert "is no file" in fails(capsys, tmp_path / "s", f"--input={tmp_path}/a.tar")


def test_two_runs_of_one_key(tmp_path, capsys, monkeypatch):
    write_shard(tmp_path / "a.tar", {"sub-00": older("sub-00"), "sub-01": older("sub-01")})
    write_shard(tmp_path / "b.tar", {"sub-01": older("sub-01")})
    both = (f"--input={tmp_path}/a.tar", f"{tmp_path}/b.tar")
    assert "sub-01 is in b.tar and in a.tar too" in fails(capsys, tmp_path / "s", *both)
    twice = (f"--input={tmp_path}/a.tar", f"{tmp_path}/a.tar")
    with pytest.raises(SystemExit):
        run(*twice, f"--output={tmp_path / 't'}")
    assert "a.tar is given twice" in capsys.readouterr().err
    # Elsewhere headers are not read first: what was done stays done, and the clash is seen again.
    monkeypatch.setattr(import_webdataset, "is_url", lambda place: True)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(*both, f"--output={tmp_path / 's'}")
        assert "sub-01 is in b.tar and in a.tar too" in capsys.readouterr().err
        assert not (tmp_path / "s").exists()
    monkeypatch.undo()
    for names in (("sub-05", "sub-06", "sub-05"), ("sub-05", "sub-05"), ("a/sub-05", "b/sub-05")):
        with tarfile.open(tmp_path / "c.tar", "w") as archive:
            for name in names:
                for suffix, data in older(name.split("/")[-1]).items():
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        line = fails(capsys, tmp_path / "u", f"--input={tmp_path}/c.tar")
        assert "sub-05 is in c.tar twice" in line
    run(f"--input={tmp_path}/?.tar", f"--output={tmp_path / 'dry'}", "--dry-run")
    out = capsys.readouterr().out
    assert "sub-01 is in b.tar and in a.tar too" in out and "sub-05 is in c.tar twice" in out
    assert "would hold 3 runs, 60 frames" in out


def test_damaged_ones_can_be_left_out(tmp_path, capsys):
    broken = older("sub-01")
    del broken["bold.npy"]
    runs = {"sub-00": older("sub-00"), "sub-01": broken, "sub-02": older("sub-02")}
    write_shard(tmp_path / "a.tar", runs)
    write_shard(tmp_path / "b.tar", {"sub-03": older("sub-03")})
    truncated(tmp_path / "b.tar", 2000)
    out = tmp_path / "s"
    run(f"--input={tmp_path}/?.tar", f"--output={out}", "--skip-damaged")
    assert [line["key"] for line in Store(out).runs] == ["sub-00", "sub-02"]
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [(line["key"], line["path"]) for line in listed] == [
        ("b.tar", "b.tar"),
        ("sub-01", "a.tar"),
    ]
    assert "Left out: 2" in capsys.readouterr().out


def test_clips_that_were_extracted(tmp_path, geometry, capsys):
    torch = pytest.importorskip("torch")
    folder = tmp_path / "clips"
    folder.mkdir()
    images = np.zeros((3, 16, *MASK.shape), np.float16)
    images[:, :, MASK] = np.stack([bold(str(i), 16) for i in range(3)])
    for i, image in enumerate(images):
        clip = {
            "__key__": "sub-01_task-WM", "sub": "01", "mod": "tfMRI", "start": 40 + i,
            "onset": 40.2, "duration": 27.5, "trial_type": "lh",
            "image": torch.from_numpy(image), "target": torch.tensor(i),
        }  # fmt: skip
        torch.save(clip, folder / f"{i:07d}.pt")
    run(f"--input={folder}", f"--output={tmp_path / 's'}", f"--geometry={geometry}")
    store = Store(tmp_path / "s")
    assert [line["key"] for line in store.runs] == [
        f"sub-01_task-WM_start-0004{i}_000000{i}" for i in range(3)
    ]
    frames = [store.geometry.to_frames(store.read(i, 0, 16)) for i in range(3)]
    np.testing.assert_array_equal(frames, images)
    event = {"onset": 0.0, "duration": 16.0, "trial_type": "lh", "target": 2}
    assert store.runs[2]["events"] == [event]
    assert (store.runs[2]["subject"], store.runs[2]["start"]) == ("01", 42)

    images[0, 0, 0, 0] = 1
    torch.save({"image": torch.from_numpy(images[0])}, folder / "0000009.pt")
    line = fails(capsys, tmp_path / "t", f"--input={folder}", f"--geometry={geometry}")
    assert "0000009.pt has values off the mask" in line
    (folder / "0000009.pt").write_bytes(b"no")
    line = fails(capsys, tmp_path / "t", f"--input={folder}/*9.pt", f"--geometry={geometry}")
    assert "0000009.pt is damaged" in line


def test_clips_of_every_kind(tmp_path, geometry, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("data_tools.published.torch_clips._A_SOURCE", 1)
    image = torch.zeros(16, *MASK.shape)
    image[:, torch.from_numpy(MASK)] = torch.from_numpy(bold("a", 16)).bfloat16().float()
    kinds = {
        "train/0.pt": {"image": image.bfloat16()},
        "test/0.pt": {"image": image.clone().requires_grad_(), "nsd_id": float("nan"), "key": "x"},
    }
    for file, clip in kinds.items():
        (tmp_path / file).parent.mkdir()
        torch.save({"__key__": "k", "start": 3} | clip, tmp_path / file)

    def told(clip):
        torch.save({"__key__": "k", "start": 3, "image": image} | clip, tmp_path / "bad.pt")
        return fails(capsys, tmp_path / "t", f"--input={tmp_path}/bad.pt", f"--geometry={geometry}")

    # Folders number their clips alike; their keys must differ still.
    both = (f"--input={tmp_path}/train", tmp_path / "test", f"--geometry={geometry}")
    with pytest.raises(SystemExit):
        run(*both, f"--output={tmp_path / 's'}")
    assert "k_start-00003_0 is in" in capsys.readouterr().err
    for folder in ("train", "test"):
        run(
            f"--input={tmp_path / folder}",
            f"--geometry={geometry}",
            f"--output={tmp_path / folder}.s",
        )
        store = Store(tmp_path / f"{folder}.s")
        assert store.runs[0]["source"] == f"{folder}/0.pt to {folder}/0.pt"
        np.testing.assert_array_equal(store.geometry.to_frames(store.read(0, 0, 16)), image)
        assert "nsd_id" not in store.runs[0]["events"][0]
    for start in ("x", float("nan")):
        assert "bad.pt has no number as start" in told({"start": start})
    assert "torch.int32" in told({"image": image.int()})


def test_shards_of_the_writer_itself(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar"), encoder=False) as sink:
        sink.write({"__key__": "sub-00", **older("sub-00")})
    run(f"--input={tmp_path}/a.tar", f"--output={tmp_path / 's'}")
    store = Store(tmp_path / "s")
    pixels = store.geometry.patches_to_pixels(store.read(0, 0, 20))
    assert pixels.tobytes() == bold("sub-00").tobytes()
