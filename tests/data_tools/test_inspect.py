"""What `python -m data_tools.inspect` says about a store, good and bad."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_tools.geometry import Geometry
from data_tools.inspect import main
from data_tools.store import Store
from data_tools.store_picture import write_picture
from data_tools.store_writer import StoreWriter

ROOT = Path(__file__).parents[2]


def make_store(path: Path, mask: np.ndarray, patch_shape: tuple[int, int], lengths) -> Store:
    geometry = Geometry("toy", mask, patch_shape)
    rng = np.random.default_rng(0)
    with StoreWriter(
        path, geometry, tr=2.0, preprocessing={"chain": ["zscore"]}, provenance={"source": "test"}
    ) as writer:
        for i, length in enumerate(lengths):
            frames = rng.standard_normal((length, *geometry.patch_mask.shape), np.float32)
            writer.add(
                f"sub-{i // 2}_run-{i % 2}",
                frames * geometry.patch_mask,
                missing=[np.flatnonzero(geometry.patch_mask)[0]] if i else None,
                dataset="toyset",
                subject=str(i // 2),
                task=("rest", "faces")[i % 2],
                events=[{"onset": 1.0, "duration": 2.0, "trial_type": "house"}] * (i % 2),
            )
        return writer.finish()


@pytest.fixture
def store(tmp_path) -> Store:
    mask = np.ones((8, 12), bool)
    mask[:5, :5] = False
    return make_store(tmp_path / "store", mask, (4, 4), [30, 60, 30])


def test_command(store, tmp_path):
    """Through the shell, once: text, picture and verification of a good store, then a bad one."""
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "data_tools.inspect", str(store.path), "--verify"]
    good = subprocess.run([*command, f"--png={picture}"], cwd=ROOT, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    for words in (
        "fmrifm-store version 1, float16, 1 shard",
        "5 cortical of 6 (2 x 3 grid)",
        "3 runs of 30 to 60 (median 30) frames; 120 frames, 4.0 minutes",
        "pixels in 2 runs, at most 1",
        "toyset   faces         1     1      60      2.0",
        "toyset   rest          2     2      60      2.0",
        "house                    1     1",
        "zscore",
        "All checksums of 3 runs match.",
    ):
        assert words in good.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")

    shard = store.path / "shards" / "bold-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    bad = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 1
    last = bad.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 3 runs of") and "(sub-1_run-0)" in last


def test_bad_input_is_one_sentence(store, tmp_path, capsys):
    for arguments in (
        [str(tmp_path / "nothing")],
        [str(tmp_path)],
        [str(store.path), f"--png={tmp_path}/picture.jpg"],
        [str(store.path), f"--png={tmp_path}/none/picture.png"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 1
        assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path) in error


def test_picture_is_the_same_each_time(store, tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(store, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_picture_of_parcels_and_a_single_frame(tmp_path):
    """Spaces that are no image, and runs too short to choose frames from, are drawn too."""
    store = make_store(tmp_path / "store", np.ones((40, 1), bool), (1, 1), [1])
    write_picture(store, tmp_path / "picture.png")


def test_pictures_do_not_load_matplotlib_for_text(store):
    code = f"from data_tools.inspect import main; main([{str(store.path)!r}])\n"
    code += "import sys; assert not {'matplotlib', 'tqdm', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
