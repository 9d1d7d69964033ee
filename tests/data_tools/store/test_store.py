"""The store: what is written is read, always the same bytes, and damage is never overlooked."""

import builtins
import errno
import functools
import io
import json
import os
import pickle
import re
import shutil
import socket
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.files import atomic as files
from data_tools.spaces.geometry import Geometry
from data_tools.store.checks import refuse_inside_store
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from tests.data_tools.store.small_stores import write_small_store

LENGTHS = {"sub-b_run-1": 5, "sub-a_run-2": 7, "sub-c run 3/é": 3, "sub-a_run-1": 4, "z": 12}


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    mask = np.zeros((8, 12), bool)
    mask[1:7, 2:9] = True
    mask[0:4, 8:12] = False
    return Geometry("toy", mask, (4, 4), bbox=(0.0, 12.0, 0.0, 8.0), pixel_size=1.0)


def make_run(key: str, geometry: Geometry) -> dict:
    """Keyword arguments of `StoreWriter.add` for one run, the same whenever it is called."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    shape = (LENGTHS[key], geometry.n_patches, geometry.patch_dim)
    frames = rng.standard_normal(shape, np.float32) * geometry.patch_mask
    run = {"frames_TxNxP": frames, "mean": frames.mean(0), "std": frames.std(0)}
    events = [{"onset": 1.5, "duration": 2, "trial_type": "face"}]
    missing = np.flatnonzero(geometry.patch_mask)[[5, 2]] if key == "z" else None
    return run | {"missing": missing, "subject": key[4:5], "task": "rest", "events": events}


def open_writer(path: Path, geometry: Geometry, **changes) -> StoreWriter:
    arguments = {
        "tr": 1.4,
        "preprocessing": {"chain": ["zscore"]},
        "provenance": {"source": "test"},
        "shard_bytes": 12 * geometry.n_patches * geometry.patch_dim * 2,
    }
    return StoreWriter(path, geometry, **arguments | changes)


def write_store(path: Path, geometry: Geometry, keys=tuple(LENGTHS), **changes) -> Store:
    with open_writer(path, geometry, **changes) as writer:
        for key in keys:
            if not writer.has(key):
                writer.add(key, **make_run(key, geometry))
        return writer.finish()


def all_bytes(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def store(geometry, tmp_path_factory) -> Store:
    return write_store(tmp_path_factory.mktemp("store") / "made", geometry)


def test_round_trip(store, geometry):
    assert [run["key"] for run in store.runs] == sorted(LENGTHS)
    assert (store.tr, store.preprocessing) == (1.4, {"chain": ["zscore"]})
    assert store.meta["shards"] == [
        {"file": "shards/bold-00000.npy", "frames": 11},
        {"file": "shards/bold-00001.npy", "frames": 8},
        {"file": "shards/bold-00002.npy", "frames": 12},
    ]
    for i, run in enumerate(store.runs):
        made = make_run(run["key"], geometry)
        frames = store.read(i, 0, run["n_frames"])
        assert frames.dtype == np.float16 and not frames.flags.writeable
        np.testing.assert_array_equal(frames, made["frames_TxNxP"].astype(np.float16))
        np.testing.assert_array_equal(store.scale(i), [made["mean"], made["std"]])
        assert (run["tr"], run["dataset"], run["events"]) == (1.4, "", made["events"])
        assert run["crc32"] == zlib.crc32(frames.tobytes())
    missing = store.missing(len(LENGTHS) - 1)
    assert missing.tolist() == sorted(make_run("z", geometry)["missing"])
    assert store.missing(0) is None and "missing" not in store.runs[0]
    assert (geometry.patch_mask & ~store.valid(len(LENGTHS) - 1)).sum() == len(missing)
    assert all(intact for _, intact in store.verify())
    assert not store.path.with_name("made.partial").exists()


def test_numpy_alone_reads_it(store, geometry):
    for shard in store.meta["shards"]:
        frames = np.load(store.path / shard["file"], allow_pickle=False)
        assert frames.shape == (shard["frames"], geometry.n_patches, geometry.patch_dim)
        assert frames.dtype == np.float16 and frames.flags.c_contiguous
    lines = (store.path / "runs.jsonl").read_text().splitlines()
    run = json.loads(lines[-1])
    shard = np.load(store.path / store.meta["shards"][run["shard"]]["file"])
    frames = shard[run["first_frame"] :][: run["n_frames"]]
    np.testing.assert_array_equal(frames, store.read(len(lines) - 1, 0, run["n_frames"]))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_range_is_read_or_refused(store, data):
    run = data.draw(st.integers(0, len(store.runs) - 1))
    start, n_frames = data.draw(st.integers(-2, 14)), data.draw(st.integers(-1, 14))
    line = store.runs[run]
    if 0 <= start and 1 <= n_frames and start + n_frames <= line["n_frames"]:
        whole = make_run(line["key"], store.geometry)["frames_TxNxP"].astype(np.float16)
        clip = store.read(run, start, n_frames)
        np.testing.assert_array_equal(clip, whole[start : start + n_frames])
    else:
        with pytest.raises(InputError, match=line["key"]):
            store.read(run, start, n_frames)


def test_pickle_and_threads(store):
    copy = pickle.loads(pickle.dumps(store))
    jobs = [(run, start) for run in range(len(store.runs)) for start in range(3)] * 20
    clips = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(copy.read)(run, start, 1) for run, start in jobs
    )
    for (run, start), clip in zip(jobs, clips, strict=True):
        np.testing.assert_array_equal(clip, store.read(run, start, 1))


def test_bytes_do_not_depend_on_order_or_processes(store, geometry, tmp_path):
    assert all_bytes(write_store(tmp_path / "a", geometry, sorted(LENGTHS)).path) == all_bytes(
        store.path
    )
    with open_writer(tmp_path / "b", geometry) as writer:
        joblib.Parallel(n_jobs=2)(
            joblib.delayed(writer.add)(key, **make_run(key, geometry)) for key in LENGTHS
        )
        assert all_bytes(writer.finish().path) == all_bytes(store.path)


def killed_at(step: int, job) -> bool:
    """Runs a job in a forked process that dies just before its step-th change of the disk."""
    child = os.fork()
    if not child:
        left = iter(range(step))

        def dying(function):
            def call(*args, **kwargs):
                if next(left, None) is None:
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            job()
            os._exit(0)
        finally:  # an exception must not reach pytest's own code in the child
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.fixture
def fast_disk(monkeypatch):
    """A killed process, unlike a lost machine, loses nothing that was not yet on the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


KEYS = ("z", "sub-b_run-1", "sub-a_run-2")  # two shards


@pytest.mark.filterwarnings("ignore:.*fork")  # the child touches nothing but files
@pytest.mark.parametrize("old", [False, True])
def test_kill_anywhere_and_resume(geometry, tmp_path, fast_disk, old):
    path, step = tmp_path / "store", 0
    whole = all_bytes(write_store(tmp_path / "whole", geometry, KEYS).path)
    template = write_store(tmp_path / "old", geometry, ["z"]).path
    job = functools.partial(write_store, path, geometry, KEYS, overwrite=old)
    while True:
        if old:  # a store in the way is replaced only once the new one is whole
            shutil.copytree(template, path)
        if not killed_at(step, job):
            break
        if path.exists():
            assert all_bytes(path) in (whole, all_bytes(template)), f"killed at step {step}"
        if old or not path.exists():
            job()
        assert all_bytes(path) == whole, f"killed at step {step}"
        assert path.with_name("store.partial").exists() <= (not old)
        shutil.rmtree(path)
        shutil.rmtree(path.with_name("store.partial"), ignore_errors=True)
        step += 1
    assert step > 60  # it did die in `add` and all over `finish`


@pytest.mark.filterwarnings("ignore:.*fork")
def test_resume_with_more_runs_than_were_laid_out(geometry, tmp_path, fast_disk):
    """A job killed while laying out may come back with other runs, which move all the others."""
    path, step = tmp_path / "store", 0
    whole = all_bytes(write_store(tmp_path / "whole", geometry, KEYS).path)
    fewer = functools.partial(write_store, path, geometry, KEYS[:2])
    more = functools.partial(write_store, path, geometry, KEYS)
    while killed_at(step, fewer):
        if not path.exists():
            killed_at(step * 7 % 80, more)  # the second job too, at another place each time
            if not path.exists():
                more()
            assert all_bytes(path) == whole, f"killed at step {step}"
        shutil.rmtree(path)
        shutil.rmtree(path.with_name("store.partial"), ignore_errors=True)
        step += 1
    assert step > 50


class SmallDisk:
    """Stands in for `open`: the disk has so many bytes left to write, then it is full."""

    def __init__(self, room: int):
        self.room = room

    def open(self, path, mode="r", *args, **kwargs):
        if mode not in ("wb", "xb"):
            return builtins.open(path, mode, *args, **kwargs)
        disk = self

        class File(io.FileIO):
            def write(self, data):
                disk.room -= len(data)
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(data)

        return io.BufferedWriter(File(path, mode, **kwargs))


def test_full_disk_leaves_nothing_half_written(store, geometry, tmp_path, monkeypatch):
    path, room, whole = tmp_path / "store", 0, all_bytes(store.path)
    while not path.exists():
        with monkeypatch.context() as patch:
            patch.setattr(files, "open", SmallDisk(room).open, raising=False)
            try:
                write_store(path, geometry)
            except OSError as error:
                assert error.errno == errno.ENOSPC and str(tmp_path) in error.filename
                assert not path.exists() and not list(tmp_path.rglob(".*"))
        room += 1_500  # the next job goes on from what this one managed to write
    assert all_bytes(path) == whole
    assert room > 10_000


def test_flipped_byte_is_found(store, tmp_path):
    for file, key in {
        "shards/bold-00001.npy": "sub-b_run-1",
        "stats/std.npy": "sub-a_run-1",
    }.items():
        path = shutil.copytree(store.path, tmp_path / file.replace("/", "-"))
        with open(path / file, "r+b") as shard:
            shard.seek(128 + 11)
            byte = shard.read(1)
            shard.seek(-1, os.SEEK_CUR)
            shard.write(bytes([byte[0] ^ 1]))
        assert [key for key, intact in Store(path).verify() if not intact] == [key]


def edit_json(**changes):
    def edit(path: Path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_last_run(**changes):
    def edit(path: Path):
        *lines, last = path.read_text().splitlines()
        path.write_text("\n".join([*lines, json.dumps(json.loads(last) | changes)]))

    return edit


def cut(n_bytes: int):
    return lambda path: path.write_bytes(path.read_bytes()[:n_bytes])


DAMAGE = {
    "no store": (".", shutil.rmtree, "no store at"),
    "no store.json": ("store.json", Path.unlink, "no store.json"),
    "cut store.json": ("store.json", cut(40), "damaged"),
    "NaN": ("store.json", edit_json(tr=float("nan")), "NaN"),
    "wrong type": ("store.json", edit_json(n_runs="five"), "wrong 'n_runs'"),
    "format": ("store.json", edit_json(format="zarr"), "format"),
    "version": ("store.json", edit_json(version=2), "version 2"),
    "dtype": ("store.json", edit_json(dtype="float32"), "dtype"),
    "n_runs": ("store.json", edit_json(n_runs=4), "5 runs"),
    "shards": ("store.json", edit_json(shards=[]), "0 frames"),
    "outside": ("store.json", edit_json(shards=[{"file": "../x", "frames": 31}]), "outside"),
    "absolute": ("store.json", edit_json(shards=[{"file": "/x", "frames": 31}]), "outside"),
    "patches": ("store.json", edit_json(n_patches=7), "other patches"),
    "no geometry": ("geometry.npz", Path.unlink, "missing"),
    "geometry": ("geometry.npz", cut(100), "checksum"),
    "no runs": ("runs.jsonl", Path.unlink, "missing"),
    "cut runs": ("runs.jsonl", cut(300), "Line 2"),
    "fewer runs": ("runs.jsonl", lambda p: p.write_text(p.read_text().split("\n")[0]), "1 runs"),
    "long run": ("runs.jsonl", edit_last_run(n_frames=13), "do not fill"),
    "moved run": ("runs.jsonl", edit_last_run(first_frame=1), "out of place"),
    "same key": ("runs.jsonl", edit_last_run(key="sub-a_run-1"), "twice"),
    "bad offset": ("runs.jsonl", edit_last_run(missing=[3, 3]), "'missing'"),
    "bad events": ("runs.jsonl", edit_last_run(events=["face"]), "events"),
    "no shard": ("shards/bold-00001.npy", Path.unlink, "missing"),
    "short shard": ("shards/bold-00001.npy", cut(500), "bytes"),
    "no array": ("shards/bold-00001.npy", lambda p: p.write_bytes(b"hello"), "damaged"),
    "other array": ("shards/bold-00001.npy", lambda p: np.save(p, np.zeros(3)), "float64"),
    "no std": ("stats/std.npy", Path.unlink, "missing"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_in_one_sentence(store, tmp_path, name):
    file, damage, words = DAMAGE[name]
    path = shutil.copytree(store.path, tmp_path / "copy")
    damage(path / file)
    for _ in range(2):  # with checksums of the small files, and as version 0.1 has it, without
        with pytest.raises(InputError) as error:
            Store(path)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
        (path / "checksums.json").unlink(missing_ok=True)
    assert re.search(words, str(error.value))


def test_runs_that_do_not_fit_are_refused(geometry, tmp_path):
    good = make_run("z", geometry)
    frames = good["frames_TxNxP"]
    nan, off = frames.copy(), frames.copy()
    nan[0][geometry.patch_mask] = np.nan
    off[0][~geometry.patch_mask] = 1
    bad = {
        "shape": {"frames_TxNxP": frames[:, 1:]},
        "least one": {"frames_TxNxP": frames[:0]},
        "float64": {"frames_TxNxP": frames.astype(float)},
        "NaN": {"frames_TxNxP": nan},
        "off the cortex": {"frames_TxNxP": off},
        "too large": {"frames_TxNxP": frames * 1e6},
        "a mean of": {"mean": frames[0, 1:]},
        "no std": {"std": None},
        "offsets": {"missing": [10**6]},
        "every pixel": {"missing": np.arange(geometry.patch_mask.size)},
        "JSON": {"snr": float("nan")},
        "'crc32'": {"crc32": 1},
        "events": {"events": "face"},
        "TR": {"tr": 0},
    }
    with open_writer(tmp_path / "store", geometry) as writer:
        for words, change in bad.items():
            with pytest.raises(InputError, match=f"Run z .*{words}"):
                writer.add("z", **good | change)
        with pytest.raises(InputError, match="No run"):
            writer.finish()
        writer.add("z", **good)
        with pytest.raises(InputError, match="Run z was added twice"):
            writer.add("z", **good)
        with pytest.raises(InputError, match="Run z was added twice"):
            pickle.loads(pickle.dumps(writer)).add("z", **good)


def test_stats_only_if_every_run_has_them(geometry, tmp_path):
    with open_writer(tmp_path / "store", geometry) as writer:
        writer.add("z", **make_run("z", geometry))
        writer.add("a", **make_run("sub-a_run-1", geometry) | {"mean": None, "std": None})
        store = writer.finish()
    assert not store.has_scale and store.scale(0) is None
    assert all(intact for _, intact in store.verify())


def test_one_writer_at_a_time(geometry, tmp_path):
    with open_writer(tmp_path / "store", geometry) as writer:
        me = rf"process {os.getpid()} of .* on {re.escape(socket.gethostname())} since 20"
        with pytest.raises(InputError, match=f"/store is being written by {me}"):
            open_writer(tmp_path / "store", geometry)
        writer.add("z", **make_run("z", geometry))  # it goes on untouched
        writer.finish()
    with open_writer(tmp_path / "other", geometry):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"store"}  # nothing added, nothing left


def test_other_settings_are_not_mixed(geometry, tmp_path):
    with open_writer(tmp_path / "store", geometry) as writer:
        writer.add("z", **make_run("z", geometry))
    with pytest.raises(InputError, match="another tr and preprocessing"):
        open_writer(tmp_path / "store", geometry, tr=2.0, preprocessing={})
    with pytest.raises(InputError, match="not finished"):
        Store(tmp_path / "store")
    with open_writer(tmp_path / "store", geometry) as writer:
        assert writer.has("z") and not writer.has("y")
        [part] = [
            p for p in (tmp_path / "store.partial/parts").glob("*.npy") if "scale" not in p.name
        ]
        cut(-1)(part)
        assert not writer.has("z")  # it is deleted, so that it is neither published nor in the way
        with pytest.raises(InputError, match="No run was added"):
            writer.finish()


def test_nothing_else_is_overwritten(store, geometry, tmp_path):
    path = shutil.copytree(store.path, tmp_path / "store")
    with pytest.raises(InputError, match="exists already"):
        write_store(path, geometry)
    assert len(write_store(path, geometry, ["z"], overwrite=True).runs) == 1
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not a store"):
        write_store(home, geometry, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"store", "home"}


def test_nothing_else_is_written_in_a_store(tmp_path):
    write_small_store(tmp_path / "store", {"a": {}})
    (tmp_path / "link").symlink_to(tmp_path / "store")
    for place in ("store", "store/run/1", "link/run"):
        with pytest.raises(InputError, match="--workdir=.* is in the store .*/store, where"):
            refuse_inside_store(tmp_path / place, "--workdir")
    with pytest.raises(InputError, match="is in the store"):
        write_small_store(tmp_path / "store" / "inner", {"a": {}})
    refuse_inside_store(tmp_path / "other")
