"""Features on disk: two jobs that make the same ones, a full disk, and what names a cache."""

import errno
import os
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.input.data import scale_of, store_digest
from fmrifm.probe.features import encode
from fmrifm.probe.features.feature_cache import find_missing

N_CLIPS, BATCH = 40, 4


@pytest.fixture
def program(monkeypatch):
    """Stands for a model, whose features are the numbers of the clips."""

    def encoded(program, rows):
        for first in range(*rows, BATCH):
            time.sleep(program.pause)
            numbers = np.arange(first, first + BATCH, dtype=np.float32)
            yield {"cls": np.repeat(numbers[:, None], 3, 1)}

    monkeypatch.setattr(encode, "_encoded", encoded)
    monkeypatch.setattr(encode, "_FLUSH_EVERY", 1)
    step = lambda _: {"cls": jax.numpy.zeros((BATCH, 3))}  # noqa: E731
    return SimpleNamespace(
        n_clips=N_CLIPS, batch_size=BATCH, pause=0.0, step=step, batches=lambda *_: [0]
    )


def test_two_jobs_may_share_a_cache(program, tmp_path):
    program.pause = 0.01
    fill = lambda: encode._fill(tmp_path, ["cls"], program, "")  # noqa: E731
    jobs = [threading.Thread(target=fill) for _ in range(3)]
    for job in jobs:
        job.start()
        time.sleep(0.02)
    for job in jobs:
        job.join()
    np.testing.assert_array_equal(np.load(tmp_path / "cls.npy")[:, 0], np.arange(N_CLIPS))
    left = sorted(path.name for path in tmp_path.glob("[!.]*"))
    assert left == ["cls.npy", "cls.npy.sha256"]


def test_a_full_disk_is_an_error_and_the_job_goes_on_later(program, tmp_path, monkeypatch):
    write, size = os.pwrite, 128 + 3 * BATCH * 12 + 7  # the header and some rows

    def limited(handle, data, place):
        if place >= size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: size - place], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", limited)
        with pytest.raises(OSError) as error:
            encode._fill(tmp_path, ["cls"], program, "")
    assert error.value.errno == errno.ENOSPC and str(tmp_path) in error.value.filename
    encode._fill(tmp_path, ["cls"], program, "")
    np.testing.assert_array_equal(np.load(tmp_path / "cls.npy")[:, 2], np.arange(N_CLIPS))


DAMAGES = {
    "a bit of the values": lambda data: data[:-5] + bytes([data[-5] ^ 4]) + data[-4:],
    "a bit of the header": lambda data: data.replace(b"(40, 3)", b"(40, 2)"),
    "zeros": lambda data: bytes(len(data)),
    "no end": lambda data: data[: len(data) // 3],
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize(
    "name, damage",
    [
        *[("cls.npy", damage) for damage in DAMAGES],
        *[("cls.npy.sha256", damage) for damage in DAMAGES if "header" not in damage],
    ],
)
def test_damaged_arrays_are_made_again(program, tmp_path, name, damage, capsys):
    encode._fill(tmp_path, ["cls"], program, "")
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("cls*")}
    damaged = DAMAGES[damage](whole[name])
    (tmp_path / name).write_bytes(damaged)
    assert find_missing(tmp_path, ["cls"]) == ["cls"]
    encode._fill(tmp_path, ["cls"], program, "")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("cls*")} == whole
    assert "cls.npy was damaged" in capsys.readouterr().err
    # Without a checksum, as earlier versions left them, arrays are taken as they are.
    (tmp_path / "cls.npy.sha256").unlink()
    (tmp_path / "cls.npy").write_bytes(DAMAGES["a bit of the values"](whole["cls.npy"]))
    assert find_missing(tmp_path, ["cls"]) == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["cls.npy", "rows-0"])
def test_damaged_rows_of_a_killed_job_are_made_again(program, tmp_path, monkeypatch, name, damage):
    encoded = encode._encoded

    def killed(program, rows):
        for i, features in enumerate(encoded(program, rows)):
            if i == 7:
                raise KeyboardInterrupt
            yield features

    monkeypatch.setattr(encode, "_encoded", killed)
    with pytest.raises(KeyboardInterrupt):
        encode._fill(tmp_path, ["cls"], program, "")
    file = tmp_path / "partial-cls-1" / name
    data = file.read_bytes()
    file.write_bytes(damage(data) if name == "rows-0" else damage(data[:-200]) + data[-200:])
    (tmp_path / "partial-cls-2").mkdir()  # of a job of two processes
    monkeypatch.setattr(encode, "_encoded", encoded)
    encode._fill(tmp_path, ["cls"], program, "")
    np.testing.assert_array_equal(np.load(tmp_path / "cls.npy")[:, 2], np.arange(N_CLIPS))
    assert not list(tmp_path.glob("partial*"))


def test_values_that_are_not_finite_are_refused(program, tmp_path, monkeypatch):
    bad = lambda *_: iter([{"cls": np.full((BATCH, 3), np.nan)}])  # noqa: E731
    monkeypatch.setattr(encode, "_encoded", bad)
    with pytest.raises(InputError, match="cls of clips 0 to 3 of a split is NaN"):
        encode._fill(tmp_path, ["cls"], program, "")
    assert not list(tmp_path.glob("partial*"))


def test_the_scale_of_runs_enters_digests():
    def store(scale=None, recorded=None):
        run = {"key": "a", "n_frames": 3, "crc32": 5}
        run |= {} if recorded is None else {"scale_crc32": recorded}
        arrays = None if scale is None else (np.full((2, 2), scale, np.float32),) * 2
        return SimpleNamespace(
            has_scale=scale is not None, runs=[run], scale=lambda _: arrays, tr=1.0,
            meta={"geometry_sha256": "x"},
        )  # fmt: skip

    plain, *others = map(store_digest, (store(), store(1.0), store(2.0), store(1.0, 7)))
    assert len({plain, *others}) == 4
    # Runs that earlier versions began recorded the first part only.
    first = plain.split("-")[0]
    assert all(digest.startswith(f"{first}-") for digest in others)
    assert scale_of(store(), 0) is None and scale_of(store(1.0, 7), 0) == 7
