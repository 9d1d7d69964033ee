"""Places: patterns, and shards and directories on a web server, in a bucket and in memory."""

import functools
import http.server
import threading

import numpy as np
import pytest

from data_tools import import_webdataset
from data_tools.errors import InputError
from data_tools.files import remote
from data_tools.files.byte_ranges import RangedFile, Retries
from data_tools.files.remote import base_name, expand, is_url, list_directory, open_binary
from data_tools.store.reader import Store
from tests.data_tools.published.published_shards import bold, older, write_shard

fsspec = pytest.importorskip("fsspec")


def test_patterns(tmp_path):
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b.tar"):
        (tmp_path / name).touch()
    names = [base_name(place) for place in expand([f"{tmp_path}/a-{{08..10}}.tar"])]
    assert names == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert len(expand([f"{tmp_path}/{{b,a-{{08,10}}}}.tar"])) == 3
    assert [base_name(p) for p in expand([f"{tmp_path}/b.tar", f"{tmp_path}/a*"])][0] == "b.tar"
    assert expand(["s3://bucket/x_{9..10}.tar"]) == ["s3://bucket/x_9.tar", "s3://bucket/x_10.tar"]
    for wrong in ("none-{0..1}.tar", "c*.tar", "{1}.tar"):
        with pytest.raises(InputError, match="none-0|c\\*|mend them"):
            expand([f"{tmp_path}/{wrong}"])
    with pytest.raises(InputError, match="name files with braces"):
        expand(["https://example.org/a*.tar"])
    assert is_url("s3://a/b") and not is_url("/a/b") and base_name("s3://a/b/") == "b"


def test_memory_stands_for_any_file_system(tmp_path):
    write_shard(tmp_path / "a.tar", {"sub-00": older("sub-00"), "sub-01": older("sub-01")})
    files = fsspec.filesystem("memory")
    for i in range(2):
        files.pipe(f"/shards/s{i}.tar", (tmp_path / "a.tar").read_bytes() if i else b"x")
    assert expand(["memory://shards/s*.tar"]) == [
        "memory:///shards/s0.tar",
        "memory:///shards/s1.tar",
    ]
    assert list_directory("memory://shards", "*1.tar") == ["memory:///shards/s1.tar"]
    assert list_directory("memory://nowhere", "*") == []
    assert RangedFile("memory://shards/s0.tar", Retries(0)).size() == 1
    import_webdataset.main(
        ["--input=memory://shards/s1.tar", f"--output={tmp_path / 's'}", "--jobs=1"]
    )
    assert len(Store(tmp_path / "s").runs) == 2
    with pytest.raises(InputError, match="memory://shards/none.tar does not exist"):
        with open_binary("memory://shards/none.tar"):
            pass


@pytest.fixture
def server(tmp_path):
    """A web server that knows no ranges."""
    pytest.importorskip("aiohttp")
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_shards_of_a_web_server(tmp_path, server, capsys):
    for i in range(2):
        write_shard(tmp_path / f"s{i}.tar", {f"sub-0{i}": older(f"sub-0{i}")})
    pattern = f"--input={server}/s{{0..1}}.tar"
    import_webdataset.main([pattern, f"--output={tmp_path / 'store'}", "--jobs=1"])
    store = Store(tmp_path / "store")
    pixels = store.geometry.patches_to_pixels(store.read(1, 0, 20))
    np.testing.assert_array_equal(pixels, bold("sub-01"))
    assert store.runs[0]["source"] == "s0.tar"
    with pytest.raises(SystemExit):
        import_webdataset.main([f"--input={server}/no.tar", f"--output={tmp_path / 't'}"])
    assert f"{server}/no.tar does not exist" in capsys.readouterr().err


def test_a_dry_run_needs_no_ranges(tmp_path, server, capsys):
    # More than fsspec fetches at once.
    write_shard(tmp_path / "s.tar", {f"sub-{i}": older(f"sub-{i}", 2500) for i in range(3)})
    place = f"{server}/s.tar"
    import_webdataset.main(
        [f"--input={place}", f"--output={tmp_path / 't'}", "--jobs=1", "--dry-run"]
    )
    assert "would hold 3 runs, 7,500 frames" in capsys.readouterr().out
    with pytest.raises(InputError, match="s.tar cannot be read .*range"):
        with open_binary(place) as file:
            file.seek(2**22)
            file.read(2**22)


def test_servers_that_refuse_are_told_from_files_that_are_not_there(monkeypatch, tmp_path, server):
    refuse = http.server.SimpleHTTPRequestHandler.send_head
    for status in (403, 500, 404):
        monkeypatch.setattr(
            http.server.SimpleHTTPRequestHandler,
            "send_head",
            lambda self, status=status: self.send_error(status),
        )
        said = "does not exist" if status == 404 else f"cannot be read .*{status}"
        with pytest.raises(InputError, match=said), open_binary(f"{server}/a.tar", False) as file:
            file.read()
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "send_head", refuse)
    with pytest.raises(InputError, match="cannot be read .*connect"):
        with open_binary("http://127.0.0.1:9/a.tar", False) as file:
            file.read()


def test_buckets_are_reached_as_the_environment_says(monkeypatch):
    pytest.importorskip("s3fs")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")

    def options():
        return {name: remote.s3_options()[name] for name in ("endpoint_url", "anon")}

    assert options() == {"endpoint_url": None, "anon": True}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert options() == {"endpoint_url": "http://127.0.0.1:9", "anon": False}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    files, path = remote.file_system("s3://bucket/key")
    assert (files.endpoint_url, files.anon, path) == ("http://127.0.0.1:1", False, "bucket/key")
