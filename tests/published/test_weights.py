"""Published weights become our models and back, bit by bit, and say what is wrong with them."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import save_model, to_reference
from fmrifm.published import weights as published
from fmrifm.published.open_model import open_model
from fmrifm.published.published_options import flat_config
from fmrifm.published.weights import load_published, save_published
from tests.published.models import (
    CHECKPOINT,
    DEFAULT,
    SHAPES,
    assert_same_params,
    random_params,
    tiny_model,
    write_older,
)

torch = pytest.importorskip("torch")

USUAL = {"normalize": "frame", "no_coord_normalize": False, "clamp": 3.0, "tr": 1.0}
CASES = ["cm_tiny_default_like", "cm_tiny_attn_sep", "cm_tiny_cross", "fm_tiny_norm_frame"]


@pytest.fixture
def no_package(monkeypatch):
    """cortex_mae is not installed."""
    monkeypatch.setattr("data_tools.published.maps.package_file", lambda: None)


def golden_files(golden, name):
    """The weights of a golden case, and its config in the flat form."""
    data = golden(name)
    meta = json.loads(str(data["meta"]))
    state = {k.removeprefix("param/"): v for k, v in data.items() if k.startswith("param/")}
    return state, meta["base"] | meta["model_kwargs"]


def test_a_checkpoint_of_the_newer_release(golden):
    files = load_published(CHECKPOINT)
    state, _ = golden_files(golden, "cm_tiny_default_like")
    found = to_reference(files.params, files.options)
    assert found.keys() == state.keys()
    assert all(found[name].tobytes() == state[name].tobytes() for name in state)
    assert files.options == dataclasses.replace(DEFAULT, mask_ratio=0.75, head_init_scale=1.0)
    assert files.preprocessing == USUAL
    assert files.geometry.mask.shape == (16, 32) and files.geometry.mask.all()
    assert files.geometry.space == "flat"
    assert files.sources == [{"name": CHECKPOINT.name, "license": None}]
    assert (files.license, files.subjects_seen) == ("", [])


@pytest.mark.parametrize("name", CASES)
def test_weights_of_the_older_release(golden, tmp_path, name):
    """A directory, its file, and the same with the settings of a training run as config."""
    state, config = golden_files(golden, name)
    directory = write_older(tmp_path / "flat", state, config)
    files = load_published(directory)
    assert_same_params(load_published(directory / "model.safetensors").params, files.params)
    found = to_reference(files.params, files.options)
    assert found.keys() == state.keys()
    assert all(found[key].tobytes() == state[key].tobytes() for key in state)

    shape = ("img_size", "num_frames", "patch_size", "t_patch_size", "in_chans")
    args = {key: config.pop(key) for key in shape} | {"model_kwargs": config, "epochs": 100}
    other = load_published(write_older(tmp_path / "args", state, args))
    assert other.options == files.options
    assert_same_params(other.params, files.params)


def test_an_encoder_alone(tmp_path):
    """By its class, or by the names of its tensors."""
    options = SHAPES["encoder alone"]
    state = to_reference(random_params(options), options)
    config = flat_config(options, "flat", {})
    for model in ("MaskedViT", "MaskedAutoencoderViT", None):
        files = load_published(write_older(tmp_path, state, {**config, "model": model}))
        assert files.options == options


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_dtypes_become_float32(tmp_path, dtype):
    state = to_reference(random_params(DEFAULT), DEFAULT)
    state = {name: value.astype(dtype) for name, value in state.items()}
    files = load_published(write_older(tmp_path, state, flat_config(DEFAULT, "flat", {})))
    for name, value in to_reference(files.params, files.options).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, state[name].astype(np.float32))


def test_damaged_files_are_named(tmp_path):
    state = to_reference(random_params(DEFAULT), DEFAULT)
    config = flat_config(DEFAULT, "flat", {})
    directory = write_older(tmp_path / "older", state, config)
    whole = (directory / "model.safetensors").read_bytes()
    for data in (whole[:-5], whole[:20], b""):
        (directory / "model.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="model.safetensors is damaged"):
            load_published(directory)
    (directory / "model.safetensors").write_bytes(whole)
    for text in ("{", "[]", "\udcff"):
        (directory / "config.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match="config.json is damaged"):
            load_published(directory)
    (directory / "config.json").unlink()
    with pytest.raises(InputError, match="comes without its options: put its config.json"):
        load_published(directory)
    with pytest.raises(InputError, match="does not exist"):
        load_published(tmp_path / "none.pth")

    path, whole = tmp_path / "copy.pth", CHECKPOINT.read_bytes()
    for data in (whole[:-100], whole[: len(whole) // 2], b"", b"no pickle"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="copy.pth is damaged"):
            load_published(path)
    for stored in ([1, 2], {"model": {"a": 1}, "args": {}}):
        torch.save(stored, path)
        with pytest.raises(InputError, match="holds no table of weights"):
            load_published(path)
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match="comes without its options"):
        load_published(path)


class Trap:
    def __reduce__(self):
        return print, ("the pickle ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    path = tmp_path / "trap.pth"
    torch.save({"model": {}, "args": Trap()}, path)
    with pytest.raises(InputError, match=r"holds Python code \(\S*print\).*never run"):
        load_published(path)
    assert "ran" not in capsys.readouterr().out


def test_weights_and_options_that_do_not_fit(tmp_path):
    state = to_reference(random_params(DEFAULT), DEFAULT)
    config = flat_config(DEFAULT, "flat", {})
    directory = write_older(tmp_path, state, {**config, "reg_tokens": 2})
    with pytest.raises(InputError, match=r"safetensors: .*encoder.reg_token is missing\."):
        load_published(directory)
    write_older(tmp_path, state | {"encoder.extra": np.zeros(1, np.float32)}, config)
    with pytest.raises(InputError, match="encoder.extra is not part"):
        load_published(directory)
    write_older(tmp_path, state, {**config, "embed_dim": 8})
    with pytest.raises(InputError, match=r"encoder\.\S+ has shape .* \(and \d+ more\)"):
        load_published(directory)
    with pytest.raises(InputError, match="has 2 heads: leave out --num_heads"):
        load_published(write_older(tmp_path, state, config), num_heads=4)


def test_without_torch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'fmrifm\[torch\]'"):
        load_published(CHECKPOINT)


def test_a_checkpoint_stays_whole_when_its_file_goes(tmp_path):
    """Its arrays are copies, not a view of the file."""
    path = shutil.copy(CHECKPOINT, tmp_path / "copy.pth")
    files = load_published(path)
    path.write_bytes(b"")
    assert_same_params(files.params, load_published(CHECKPOINT).params)


def test_a_given_geometry(golden, tmp_path, no_package):
    """Cut into the model's patches, and of the right size."""
    state, config = golden_files(golden, "cm_tiny_cross")
    directory = write_older(tmp_path / "older", state, config)
    mask = np.zeros((16, 32), bool)
    mask[8:, 3:20] = True
    geometry = Geometry("flat-other", mask, (8, 8), (0, 32, 0, 16), 1.0)
    (tmp_path / "geometry.npz").write_bytes(geometry.to_bytes())
    for source in (tmp_path, tmp_path / "geometry.npz"):
        files = load_published(directory, geometry=str(source))
        assert files.geometry.patch_shape == (4, 4) and files.geometry.space == "flat-other"
        np.testing.assert_array_equal(files.geometry.mask, mask)
    (tmp_path / "geometry.npz").write_bytes(
        Geometry("small", np.ones((8, 8), bool), (4, 4)).to_bytes()
    )
    with pytest.raises(InputError, match="frames of 8 x 8 pixels, the model has 16 x 32"):
        load_published(directory, geometry=str(tmp_path))
    with pytest.raises(InputError, match="geometry is missing"):
        load_published(directory, geometry=str(tmp_path / "none"))
    with pytest.raises(InputError, match="cortex_mae is not installed"):
        load_published(directory, geometry="cortex_mae")


def test_a_geometry_beside_the_weights(tmp_path):
    """It is theirs, and does not make them a model directory."""
    model = tiny_model()
    save_published(tmp_path / "model.safetensors", model)
    (tmp_path / "geometry.npz").write_bytes(model.geometry.to_bytes())
    for source in (tmp_path, tmp_path / "model.safetensors"):
        assert open_model(source).geometry.to_bytes() == model.geometry.to_bytes()
    other = Geometry("flat-other", np.eye(16, 32) > 0, (8, 8))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "geometry.npz").write_bytes(other.to_bytes())
    assert open_model(tmp_path, str(tmp_path / "other")).geometry.space == "flat-other"


@pytest.mark.parametrize("name", SHAPES)
def test_ours_and_back(tmp_path, name):
    """Every option, every bit; only the mask is lost, unless it is given again."""
    model = tiny_model(SHAPES[name], sources=[{"name": "a", "license": "mit"}], license="text")
    save_model(tmp_path / "ours", model)
    path = tmp_path / "published" / "model.safetensors"
    save_published(path, model)
    for source in (path, path.parent):
        found = load_published(source, geometry=str(tmp_path / "ours"))
        assert_same_params(found.params, model.params)
        for field in ("options", "preprocessing", "subjects_seen", "sources", "license"):
            assert getattr(found, field) == getattr(model, field), field
        np.testing.assert_array_equal(found.geometry.mask, model.geometry.mask)
    alone = load_published(path).geometry
    assert alone.mask.all() and alone.space == model.geometry.space
    again = tmp_path / "again.safetensors"
    save_published(again, load_published(path, geometry=str(tmp_path / "ours")))
    assert again.read_bytes() == path.read_bytes()


def test_other_files_are_never_overwritten(tmp_path):
    model, path = tiny_model(license="text"), tmp_path / "model.safetensors"
    save_model(tmp_path / "ours", model)
    before = (tmp_path / "ours" / "config.json").read_bytes()
    with pytest.raises(InputError, match="config.json does not belong to other.safetensors"):
        save_published(tmp_path / "ours" / "other.safetensors", model)
    assert (tmp_path / "ours" / "config.json").read_bytes() == before
    save_published(path, model)
    save_published(path, dataclasses.replace(model, subjects_seen=[]))  # its own may be replaced
    with pytest.raises(InputError, match="config.json does not belong to b.safetensors"):
        save_published(tmp_path / "b.safetensors", model)
    with pytest.raises(InputError, match="LICENSE.txt is not the licence of these weights"):
        save_published(path, dataclasses.replace(model, license=""))
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {"ours", "model.safetensors", "config.json", "LICENSE.txt"}


def test_a_kill_between_weights_and_config_leaves_a_whole_model(tmp_path, monkeypatch, capsys):
    """The new weights carry their options themselves."""
    path = tmp_path / "model.safetensors"
    save_published(path, tiny_model())
    new = tiny_model(dataclasses.replace(DEFAULT, no_decode_pos=False))  # the shapes are the same
    write = published.write_bytes

    def die(target, data):
        if target.name == "config.json":
            raise KeyboardInterrupt
        write(target, data)

    monkeypatch.setattr(published, "write_bytes", die)
    with pytest.raises(KeyboardInterrupt):
        save_published(path, new)
    assert load_published(path).options == new.options
    assert "config.json beside it differs" in capsys.readouterr().out
    (tmp_path / "config.json").unlink()
    assert load_published(path).options == new.options


def test_the_licence_is_found(golden, tmp_path):
    state, config = golden_files(golden, "cm_tiny_cross")
    directory = write_older(tmp_path, state, config)
    (directory / "LICENSE").write_text("for the code")
    assert load_published(directory).license == "for the code"
    (directory / "LICENSE.models").write_text("for the weights")
    (directory / "README.md").write_text("---\ntags: [a]\nlicense: CC-BY-4.0\n---\nlicense: no\n")
    files = load_published(directory)
    assert files.license == "for the weights"
    assert files.sources == [{"name": f"{tmp_path.name}/model.safetensors", "license": "cc-by-4.0"}]


def test_a_card_before_a_license_of_the_code(golden, tmp_path):
    directory = write_older(tmp_path, *golden_files(golden, "cm_tiny_cross"))
    (directory / "LICENSE").write_text("Apache License 2.0")
    (directory / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    files = load_published(directory)
    assert "under CC-BY-NC-4.0" in files.license.splitlines()[0]
    assert files.license.endswith("Apache License 2.0")
    assert files.sources[0]["license"] == "cc-by-nc-4.0"


def test_a_licence_is_known_in_the_cache_of_the_hub(tmp_path, capsys):
    """A file is only a link there, to a blob without a name."""
    blob = tmp_path / "models--medarc--CortexMAE" / "blobs" / "0a1b"
    place = blob.parents[1] / "snapshots" / "f00d" / "flat" / "checkpoint-last.pth"
    for path in (blob, place):
        path.parent.mkdir(parents=True)
    shutil.copy(CHECKPOINT, blob)
    place.symlink_to(blob)
    (place.parents[1] / "LICENSE.models").write_text("for the weights")
    files = load_published(place)
    name = "medarc/CortexMAE:flat/checkpoint-last.pth"
    assert files.sources == [{"name": name, "license": "cc-by-nc-4.0"}]
    assert files.license == "for the weights"
    assert "No licence" not in capsys.readouterr().out
    assert load_published(shutil.copy(CHECKPOINT, tmp_path)).license == ""
    assert "No licence was found beside" in capsys.readouterr().out


@pytest.mark.parametrize("save", [save_model, save_published])
def test_a_licence_that_was_left_behind(tmp_path, capsys, save):
    """The weights alone still say what their sources are under."""
    sources = [{"name": "a", "license": "cc-by-nc-4.0"}, {"name": "b", "license": None}]
    path = tmp_path / "new" if save is save_model else tmp_path / "new" / "model.safetensors"
    save(path, tiny_model(sources=sources, license="text"))
    (tmp_path / "new" / "LICENSE.txt").unlink()
    files = open_model(path)
    assert files.sources == sources
    assert "weights a are published by their authors under CC-BY-NC-4.0" in files.license
    assert "weights b" not in files.license


@pytest.mark.parametrize(
    "name, short, words",
    [
        ("medarc/CortexMAE:a/b.pth", "cc-by-nc-4.0", "creativecommons.org/licenses/by-nc/4.0/"),
        ("medarc/fm_mae_vit_base_patch16-16.hcp", "cc-by-nc-4.0", "non-commercial"),
        ("someone/else", None, ""),
    ],
)
def test_a_licence_that_is_only_known(golden, tmp_path, name, short, words):
    state, config = golden_files(golden, "cm_tiny_cross")
    files = load_published(write_older(tmp_path, state, config), name=name)
    assert files.sources == [{"name": name, "license": short}]
    assert words in files.license and bool(files.license) == bool(words)
