"""Every kind of damage to every kind of file of a checkpoint: named, or without effect."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.runs import checkpoint
from fmrifm.runs.checkpoint import Checkpoints, TrainState, restore_meta, restore_params

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
DAMAGES = {
    "flip": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[-9:],
    "cut": lambda data: data[: len(data) // 3],
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "delete": lambda data: None,
}


def make_state(step: int) -> TrainState:
    """Large enough that arrays are kept in files of their own."""
    params = {"encoder": {"kernel": step + jnp.arange(30000.0).reshape(300, 100)}}
    return TrainState(jnp.int32(step), params, {"mu": params}, jnp.int32(-1))


def abstract() -> TrainState:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    return jax.tree.map(like, make_state(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A directory with the steps 4 and 8."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(directory, 4, 8)
    return directory


def save(directory: Path, *steps: int) -> None:
    checkpoints = Checkpoints(directory, 2, 0)
    for step in steps:
        checkpoints.save(make_state(step), step, {"step": step})
    checkpoints.close()


def resume(directory: Path) -> int:
    """The step that a run goes on from, whose state is as it was saved."""
    checkpoints = Checkpoints(directory, 2, 0)
    try:
        meta, state = checkpoints.restore_newest(abstract(), lambda _: None)
    finally:
        checkpoints.close()
    step = int(state.step)
    assert meta == {"step": step} and jax.tree.all(
        jax.tree.map(np.array_equal, state, make_state(step))
    )
    return step


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_or_has_no_effect(saved, tmp_path, damage):
    step = shutil.copytree(saved, tmp_path / "checkpoints") / "8"
    files = sorted(path for path in step.rglob("*") if path.is_file())
    assert {"checksums.json", "metadata", "manifest.ocdbt"} <= {path.name for path in files}
    refused = []
    for file in files:
        data = file.read_bytes()
        file.unlink() if (changed := damage(data)) is None else file.write_bytes(changed)
        try:
            assert restore_meta(step) == {"step": 8}
            params = restore_params(step, abstract().params)
            assert jax.tree.all(jax.tree.map(np.array_equal, params, make_state(8).params))
        except InputError as error:
            assert "Checkpoint 8 of" in str(error) and "is damaged" in str(error)
            refused.append(file)
        file.write_bytes(data)
    free = {"_CHECKPOINT_METADATA", "commit_success.txt", "checksums.json"}
    assert {*files} - {*refused} <= {file for file in files if file.name in free}


def test_a_run_goes_on_from_the_newest_that_is_whole(saved, tmp_path, capsys):
    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    assert resume(directory) == 8 and capsys.readouterr().err == ""
    for ending in ("", "-2"):  # what was saved again may be damaged again
        file = next((directory / "8").rglob("d/*"))
        file.write_bytes(file.read_bytes() + b"x")
        assert resume(directory) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"it is kept as 8.damaged{ending}, and training goes on from 4.")
        save(directory, 8)
        assert resume(directory) == 8
    for step in "48":
        (directory / step / "meta/metadata").unlink()
    before = sorted(directory.rglob("*"))
    with pytest.raises(InputError, match=r"4 of .* \(meta/metadata is missing\), and there is no"):
        resume(directory)
    assert sorted(directory.rglob("*")) == before


def test_a_checkpoint_without_checksums_is_read(saved, tmp_path):
    """As earlier versions left them."""
    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    (directory / "8" / "checksums.json").unlink()
    assert resume(directory) == 8


def test_a_save_without_checksums_does_not_appear(saved, tmp_path, monkeypatch):
    """A full disk, or a kill, before the checksums are there: the step has no name yet."""

    def fail(directory):
        raise OSError(28, "No space left on device", str(directory))

    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "write_step_sums", fail)
        save(directory, 12)
    assert resume(directory) == 8
    save(directory, 12)
    assert resume(directory) == 12
