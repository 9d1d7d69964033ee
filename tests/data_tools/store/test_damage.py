"""Nothing in a store changes unseen: one bit, a cut, a file that changes under a job that reads."""

import itertools
import os
import random
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.store.layout import Layout
from data_tools.store.parts import Parts
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from tests.data_tools.store.small_stores import make_run, small_geometry, write_small_store

EVENTS = [{"onset": 1.5, "duration": 2, "trial_type": "face"}]
RUNS = {f"sub-{i}": {"subject": str(i), "events": EVENTS} for i in range(4)}
EXTRA = {"skipped.jsonl": b'{"key": "x", "path": null, "reason": "y"}\n'}
SHARD = 8 * 6 * 16 * 2  # bytes: a run or two in each


@pytest.fixture
def store(tmp_path) -> Store:
    return write_small_store(tmp_path / "store", RUNS, EXTRA, shard_bytes=SHARD)


def contents(store: Store) -> list:
    """All that can be read of a store."""
    runs = [
        (line, store.read(r, 0, line["n_frames"]), store.scale(r), store.valid(r))
        for r, line in enumerate(store.runs)
    ]
    arrays = [np.concatenate([np.ravel(x) for x in (a, *b, c)]) for _, a, b, c in runs]
    lines = [line for line, *_ in runs]
    rest = store.meta, store.tr, lines, store.skipped(), store.geometry.to_bytes()
    return [*rest, [array.tobytes() for array in arrays]]


def spoil(path: Path, rng: random.Random, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    place = rng.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data[: place // 8] if cut else data)


def all_files(path: Path) -> list[str]:
    return sorted(str(x.relative_to(path)) for x in path.rglob("*") if x.is_file())


def test_a_flip_or_cut_of_any_file_is_refused_or_harmless(store, tmp_path):
    whole, rng, refused = contents(store), random.Random(0), 0
    files = all_files(store.path)
    assert "checksums.json" in files
    for file, cut in itertools.product(files, [False] * 5 + [True]):
        path = shutil.copytree(store.path, tmp_path / "copy")
        spoil(path / file, rng, cut)
        try:
            assert contents(Store(path)) == whole, file
        except InputError as error:
            assert re.search(r"/copy\W", str(error)) and "\n" not in str(error)
            refused += 1
        shutil.rmtree(path)
    assert refused > 5 * len(files)


def test_a_file_that_is_gone_is_missed(store):
    for file in ("skipped.jsonl", "stats"):
        (store.path / file).rename(store.path.with_name("aside"))
        with pytest.raises(InputError, match=f"{file}.* is missing"):
            contents(Store(store.path))
        store.path.with_name("aside").rename(store.path / file)
    # Version 0.1 wrote no checksums; stats could be deleted then.
    (store.path / "checksums.json").unlink()
    shutil.rmtree(store.path / "stats")
    assert Store(store.path).scale(0) is None


def test_a_run_is_checked_once_a_process_before_it_is_used(store, monkeypatch):
    checked, real, barrier = [], Store._frames_sum, threading.Barrier(8)

    def count(self, run, frames):
        checked.append(run)
        return real(self, run, frames)

    def read(k):
        barrier.wait()
        return (one, two)[k % 2].read(0, 0, 2).copy()

    monkeypatch.setattr(Store, "_frames_sum", count)
    one, two = Store(store.path), Store(store.path)
    with ThreadPoolExecutor(8) as pool:
        clips = list(pool.map(read, range(8)))
    assert checked == [0] and all(np.array_equal(clip, clips[0]) for clip in clips)

    # Bytes that are written into an open file are checked again, and refused each time.
    shard = store.path / store.meta["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    with open(shard, "r+b") as file:
        file.write(data)
    last = max(r for r, line in enumerate(store.runs) if line["shard"] == 0)
    for reader in (one, two, one):
        with pytest.raises(InputError, match=f"Run sub-{last} of .*/store does not match its che"):
            reader.read(last, 0, 1)
    assert Store(store.path, check_runs=False).read(last, 0, 1).shape[0] == 1


def test_files_that_shrink_or_vanish_under_a_reader(store):
    store.read(0, 0, 1)
    shard = store.path / store.meta["shards"][0]["file"]
    whole = contents(store)
    shard.rename(shard.with_name("elsewhere"))  # as where a store is replaced or deleted
    assert contents(store) == whole
    with pytest.raises(InputError, match="bold-00000.npy is missing"):
        Store(store.path)
    shard.with_name("elsewhere").rename(shard)
    unchecked = Store(store.path, check_runs=False)
    unchecked.read(0, 0, 1)
    os.truncate(shard, 300)  # a memory map would end the process
    for reader in (store, unchecked):
        with pytest.raises(InputError, match="bold-00000.npy has lost bytes since it was opened"):
            reader.read(0, 0, 1)


class _KilledError(Exception):
    """Stands for the end of a process."""


def _write(path: Path) -> Store:
    with StoreWriter(
        path, small_geometry(), tr=1.0, preprocessing={}, provenance={}, shard_bytes=SHARD
    ) as writer:
        if not writer.has_source("tar"):
            for key, fields in RUNS.items():
                if not writer.has(key):
                    writer.add(key, **make_run(key, small_geometry()) | fields)
            writer.finish_source("tar", list(RUNS))
        return writer.finish(extra=EXTRA)


# The method that dies, and at which call: with all in parts, between them, and before publishing.
@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [(Layout, "heal", 0), (Parts, "remove", 1), (StoreWriter, "_publish", 0)],
)
def test_damage_in_an_unfinished_store_heals(tmp_path, monkeypatch, capsys, owner, name, calls):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    expected = _write(tmp_path / "whole").path
    with monkeypatch.context() as patch:
        left, real = iter(range(calls)), getattr(owner, name)

        def dying(self, *args):
            if next(left, None) is None:
                raise _KilledError
            return real(self, *args)

        patch.setattr(owner, name, dying)
        with pytest.raises(_KilledError):
            _write(tmp_path / "killed" / "store")
    rng, partial = random.Random(1), tmp_path / "killed" / "store.partial"
    files = [file for file in all_files(partial) if (partial / file).stat().st_size]
    assert any(file.startswith({"heal": "parts/"}.get(name, "store/shards/")) for file in files)
    for i, file in enumerate(files):
        again = shutil.copytree(tmp_path / "killed", tmp_path / "again")
        spoil(again / "store.partial" / file, rng, cut=i % 2 == 0)
        capsys.readouterr()
        made = _write(again / "store").path
        for each in all_files(expected):
            assert (made / each).read_bytes() == (expected / each).read_bytes(), (file, each)
        assert not (again / "store.partial").exists()
        if file.startswith(("settings", "sources", "parts")):
            assert " is damaged: " in capsys.readouterr().err, file
        shutil.rmtree(again)
