"""Outputs appear whole, one job at a time, and what killed jobs left is cleared away."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory, publish_file, write_bytes


def _hang(path: Path, started, publish) -> None:
    with publish(path) as new:
        if isinstance(new, Path):
            (new / "data").write_bytes(b"half of it")
        else:
            new.write(b"half of it")
            new.flush()
        started.set()
        signal.pause()


@pytest.fixture
def busy():
    """Starts a process that is in the middle of publishing a path; it is killed at the end."""
    context, processes = multiprocessing.get_context("spawn"), []

    def start(path: Path, publish) -> multiprocessing.Process:
        started = context.Event()
        processes.append(context.Process(target=_hang, args=(path, started, publish)))
        processes[-1].start()
        assert started.wait(60)
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def names(path: Path) -> set[str]:
    return {x.name for x in path.iterdir()}


def test_directories_of_living_and_of_killed_jobs(tmp_path, busy):
    out = tmp_path / "out"
    process = busy(out, publish_directory)
    with (
        pytest.raises(
            InputError, match=rf"/out is being written by process {process.pid} of .* on .* s"
        ),
        publish_directory(out),
    ):
        pass
    assert names(tmp_path) == {".out.new", ".out.lock"}  # the other one goes on untouched
    assert (tmp_path / ".out.new" / "data").read_bytes() == b"half of it"
    process.kill()
    process.join()
    with publish_directory(out) as new:
        assert not names(new)
        (new / "more").touch()
    assert names(tmp_path) == {"out"} and names(out) == {"more"}

    # A job that was killed between its two renames has put the old directory aside.
    out.rename(tmp_path / ".out.old")
    with pytest.raises(ValueError), publish_directory(out):
        raise ValueError
    assert names(tmp_path) == {"out"} and names(out) == {"more"}


def test_files_of_living_and_of_killed_jobs(tmp_path, busy):
    out = tmp_path / "out"
    process = busy(out, publish_file)
    write_bytes(out, b"whole")  # beside the other one, under another name
    assert names(tmp_path) == {"out", ".out.new"} and out.read_bytes() == b"whole"
    assert (tmp_path / ".out.new").read_bytes() == b"half of it"
    process.kill()
    process.join()
    write_bytes(out, b"new")
    assert names(tmp_path) == {"out"} and out.read_bytes() == b"new"


def test_threads_that_write_one_file_never_mix_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    path, found = tmp_path / "out", set()

    def write(letter: bytes) -> None:
        for _ in range(100):
            write_bytes(path, letter * 5000)
            found.add(path.read_bytes())

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found <= {letter * 5000 for letter in (b"a", b"b", b"c")}
    assert names(tmp_path) == {"out"}
