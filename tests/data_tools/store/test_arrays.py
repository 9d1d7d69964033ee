"""Stores in a bucket or behind a cache: the same bytes, whatever happens on their way."""

import functools
import http.server
import itertools
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.files.block_cache import BlockCache
from data_tools.files.byte_ranges import RangedFile, Retries
from data_tools.store import arrays as store_files
from data_tools.store.arrays import Rows
from data_tools.store.reader import Store
from tests.conftest import ROOT
from tests.data_tools.files.object_store import object_store, upload
from tests.data_tools.store.small_stores import write_small_store

RUNS = {f"sub-{i}": {"task": "rest"} for i in range(4)}


@pytest.fixture
def bucket(monkeypatch):
    with object_store(monkeypatch) as gate:
        yield gate


def assert_same(found: Store, expected: Store) -> None:
    for run, line in enumerate(expected.runs):
        for start in range(line["n_frames"]):
            part = run, start, line["n_frames"] - start
            np.testing.assert_array_equal(found.read(*part), expected.read(*part))
        np.testing.assert_array_equal(found.scale(run), expected.scale(run))
        np.testing.assert_array_equal(found.valid(run), expected.valid(run))


def test_a_bucket_gives_the_same_bytes_through_failures(bucket, tmp_path, capsys):
    here = write_small_store(tmp_path / "s", RUNS, extra={"skipped.jsonl": b'{"key": "x"}\n'})
    url = upload(here.path, "s")
    bucket.faults = iter(["busy", None, "error", None, "cut", "cut", None])
    there = Store(url)
    assert (there.name, there.path, there.skipped()) == ("s", url, [{"key": "x"}])
    assert not there.is_local and there.runs == here.runs
    bucket.faults = itertools.cycle(["cut", None, None, None, "error", None, None, "busy"])
    assert_same(pickle.loads(pickle.dumps(there)), here)
    assert all(intact for _, intact in there.verify())
    assert capsys.readouterr().err.count("is tried again") <= 3  # once a store, not a request


def test_what_lasts_is_told(bucket, tmp_path, monkeypatch):
    here = write_small_store(tmp_path / "s", RUNS).path
    url = upload(here, "s")
    there = Store(url)
    bucket.faults = itertools.repeat("forbidden")
    with pytest.raises(InputError, match="shards/bold-00000.npy cannot be read .*Forbidden"):
        there.read(0, 0, 1)
    assert next(bucket.faults) == "forbidden"
    bucket.faults = itertools.repeat("busy")
    waiting = threading.Timer(0.2, there.stop_waiting)
    waiting.start()
    with pytest.raises(InputError, match="reduce your request rate"):
        there.read(0, 0, 1)  # would be repeated for minutes
    bucket.faults = iter(())
    upload(write_small_store(tmp_path / "t", {"sub-9": {}}).path, "s")  # other contents, cut short
    (tmp_path / "t" / "geometry.npz").write_bytes(b"x")
    upload(tmp_path / "t", "s")
    with pytest.raises(InputError, match=f"{url}/geometry.npz does not match its checksum"):
        Store(url)
    text = (here / "runs.jsonl").read_text()
    (here / "runs.jsonl").write_text(text.replace("rest", "test"))
    url = upload(here, "changed")
    with pytest.raises(InputError, match=f"{url}/runs.jsonl does not match its checksum"):
        Store(url)
    (here / "checksums.json").unlink()
    assert Store(upload(here, "old")).runs[0]["task"] == "test"  # as version 0.1 wrote stores
    with pytest.raises(InputError, match="bucket/none is not a store"):
        Store("s3://bucket/none")


@pytest.mark.parametrize("ranges", [True, False])
def test_web_servers(tmp_path, ranges, monkeypatch):
    """One that answers ranges serves a store; one that sends whole files is told apart."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        log_message = lambda *_: None  # noqa: E731

        def do_GET(self):
            wanted = self.headers.get("Range")
            if not (ranges and wanted):
                return super().do_GET()
            first, last = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
            with open(self.translate_path(self.path), "rb") as file:
                data = file.read()[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    here = write_small_store(tmp_path / "s", RUNS)
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        if ranges:
            assert_same(Store(f"{url}/s/"), here)
        else:
            with pytest.raises(InputError, match="sends whole files where parts are asked for"):
                Store(f"{url}/s")
        with pytest.raises(InputError, match="/t is not a store"):
            Store(f"{url}/t")
        server.shutdown()
    monkeypatch.setattr(store_files, "OPENING_PATIENCE", 0.2)
    with pytest.raises(InputError, match="/s/store.json cannot be read"):
        Store(f"{url}/s")


def test_a_cache_answers_for_the_bucket(bucket, tmp_path):
    here = write_small_store(tmp_path / "s", RUNS)
    url = upload(here.path, "s")
    cache = BlockCache(tmp_path / "cache", 10**6)
    there = Store(url, cache)
    assert_same(there, here)
    cache.settle()
    asked = len(bucket.ranges)
    assert_same(there, here)
    assert len(bucket.ranges) == asked

    # What a crash has damaged is fetched again.
    block = next((tmp_path / "cache").glob("*/shard-0.*"))
    block.write_bytes(b"\0" * block.stat().st_size)
    again = Store(url, BlockCache(tmp_path / "cache", 10**6))
    assert_same(again, here)
    assert len(bucket.ranges) > asked

    # A store made anew under the same address never meets blocks of the old one.
    other = write_small_store(tmp_path / "t", {f"sub-{i}": {} for i in range(10, 14)})
    url = upload(other.path, "s")
    assert_same(Store(url, BlockCache(tmp_path / "cache", 10**6)), other)


def test_a_cache_is_bounded_and_makes_room_of_what_nobody_reads(tmp_path):
    stores = [
        write_small_store(tmp_path / str(i), {f"{i}-{k}": {} for k in range(30)}) for i in range(2)
    ]

    def held():
        return sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file())

    one = Store(stores[0].path, BlockCache(tmp_path / "cache", 10**6))
    assert not one.is_local  # slow file systems have a cache, too
    assert_same(one, stores[0])
    one._cache.settle()
    size = held()
    assert size > 10_000

    # While a process reads the first store, the second finds no room; it is read all the same.
    two = Store(stores[1].path, BlockCache(tmp_path / "cache", size + 1000))
    assert_same(two, stores[1])
    two._cache.settle()
    assert held() <= size + 1000 and len(list((tmp_path / "cache").glob("*/shard*"))) == 1

    # Another process, when this one has ended: locks end with those who hold them.
    for handle in one._cache._in_use.values():
        os.close(handle)
    for handle in two._cache._in_use.values():
        os.close(handle)
    code = (
        "import sys; from data_tools.store.reader import Store\n"
        "from data_tools.files.block_cache import *\n"
        "cache = BlockCache(sys.argv[2], int(sys.argv[3])); store = Store(sys.argv[1], cache)\n"
        "assert all(intact for _, intact in store.verify()); cache.settle()"
    )
    arguments = [str(stores[1].path), str(tmp_path / "cache"), str(size + 1000)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=ROOT)
    assert held() <= size + 1000
    kept = {path.parent.name for path in (tmp_path / "cache").glob("*/shard*")}
    assert kept == {two._digest}

    # A kill may have left a store without its mark.
    (tmp_path / "cache" / two._digest / ".in-use").unlink()
    three = Store(stores[0].path, BlockCache(tmp_path / "cache", size + 1000))
    assert_same(three, stores[0])
    three._cache.settle()
    kept = {path.parent.name for path in (tmp_path / "cache").glob("*/shard*")}
    assert kept == {three._digest} and held() <= size + 1000

    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="data.cache_dir: .*file"):
        BlockCache(tmp_path / "file", 1)


@given(st.data())
def test_rows_through_a_cache_are_the_rows(tmp_path_factory, data):
    """Whatever was read before, however large the blocks."""
    n, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    array = np.arange(n * width, dtype=np.float32).reshape(n, width)
    directory = tmp_path_factory.mktemp("rows")
    (directory / "a").write_bytes(b"head" + array.tobytes())
    cache = BlockCache(directory / "cache", data.draw(st.sampled_from([1, 300, 10**6])))
    cache.open("s")
    file = RangedFile(directory / "a", Retries(0))
    rows = Rows(file, 4, array.shape, array.dtype, (cache, "s", "a"))
    rows._block_rows = data.draw(st.integers(1, 50))
    for _ in range(data.draw(st.integers(1, 6))):
        first = data.draw(st.integers(0, n - 1))
        last = data.draw(st.integers(first + 1, n))
        np.testing.assert_array_equal(rows.read(first, last), array[first:last])
        if data.draw(st.booleans()):
            cache.settle()
    cache.settle()
