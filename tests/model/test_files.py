"""The model directory: exact both ways, readable years later, and clear when it does not fit."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.model.files import (
    ModelFiles,
    bare_subject,
    from_reference,
    hash_subject,
    is_model_directory,
    load_model,
    save_model,
    to_reference,
)
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import sincos_table
from tests.published.models import SHAPES, assert_same_params, random_params, tiny_model

# The published form has no such maps.
KEPT = SHAPES | {"network maps": dataclasses.replace(SHAPES["default"], network_maps=2)}


@pytest.mark.parametrize("name", KEPT)
def test_names_and_layout_round_trip(name):
    options = KEPT[name]
    params = random_params(options)
    state = to_reference(params, options)
    assert_same_params(from_reference(state, options), params)
    again = to_reference(from_reference(state, options), options)
    assert again.keys() == state.keys()
    for key, value in state.items():
        assert value.tobytes() == again[key].tobytes()


def test_published_names_and_layout():
    state = to_reference(random_params(SHAPES["default"]), SHAPES["default"])
    assert state["encoder.patch_embed.weight"].shape == (16, 32)  # (out, in)
    assert state["encoder.blocks.1.mlp.fc1.weight"].shape == (64, 16)
    assert state["decoder.head.weight"].shape == (16, 12)
    assert "encoder.cls_token_pos" not in state

    state = to_reference(random_params(SHAPES["crossreg"]), SHAPES["crossreg"])
    assert state["decoder.blocks.0.attn.k.weight"].shape == (12, 16)
    assert state["encoder.reg_token_pos"].shape == (1, 3, 16)
    assert not {"decoder.cls_token", "decoder.proj.weight"} & state.keys()

    state = to_reference(random_params(SHAPES["encoder alone"]), SHAPES["encoder alone"])
    assert not any(name.startswith(("encoder.", "decoder.")) for name in state)
    assert {"patch_embed.weight", "blocks.0.attn.q.bias", "norm.weight"} <= state.keys()

    state = to_reference(random_params(SHAPES["depth 0"]), SHAPES["depth 0"])
    assert not any(".blocks." in name for name in state)

    state = to_reference(random_params(SHAPES["pca"]), SHAPES["pca"])
    assert state["target_norm.components"].shape == (3, 16, 32)


@pytest.mark.parametrize("name, parts", [("sincos", ("encoder.", "decoder.")), ("2-D", ("",))])
def test_fixed_positions_are_written_and_checked(name, parts):
    options = SHAPES[name]
    state = to_reference(random_params(options), options)
    for part in parts:
        table, width = state[f"{part}pos_embed.weight"], state[f"{part}norm.weight"].shape[0]
        np.testing.assert_array_equal(table, sincos_table(options, width))
        shifted = {**state, f"{part}pos_embed.weight": table + 1e-7}
        from_reference(shifted, options)
        for wrong in (table + 1e-3, np.where(table == 1, np.nan, table)):
            with pytest.raises(InputError, match=f"{part}pos_embed.weight is not the sincos"):
                from_reference({**state, f"{part}pos_embed.weight": wrong}, options)
        with pytest.raises(InputError, match=f"{part}pos_embed.weight is missing"):
            from_reference(
                {k: v for k, v in state.items() if k != f"{part}pos_embed.weight"}, options
            )


def test_weights_that_do_not_fit_are_named():
    options = SHAPES["default"]
    state = to_reference(random_params(options), options)
    for name in ("encoder.norm.bias", "decoder.blocks.0.attn.q.weight"):
        with pytest.raises(InputError, match=f"{name} is missing"):
            from_reference({k: v for k, v in state.items() if k != name}, options)
        with pytest.raises(InputError, match=rf"{name} has shape \(3,\), not"):
            from_reference({**state, name: np.zeros(3)}, options)
    with pytest.raises(InputError, match=r"blocks.7.x is not part of this model\."):
        from_reference({**state, "blocks.7.x": np.zeros(3)}, options)
    with pytest.raises(InputError, match=r"missing; .*missing; .*missing \(and 62 more\)"):
        from_reference({}, options)
    alone = SHAPES["encoder alone"]
    state = to_reference(random_params(alone), alone)
    with pytest.raises(InputError, match=r"model: norm.bias is missing\."):  # as it is named there
        from_reference({k: v for k, v in state.items() if k != "norm.bias"}, alone)


@pytest.mark.parametrize("name", SHAPES)
def test_directory_round_trip(tmp_path, name):
    model = tiny_model(
        SHAPES[name],
        sources=[{"name": "owner/model:a.pth", "license": "cc-by-nc-4.0"}],
        license="Ümlaut: use it well.\n",
    )
    save_model(tmp_path / "model", model)
    assert is_model_directory(tmp_path / "model")
    found = load_model(tmp_path / "model")
    assert_same_params(found.params, model.params)
    for field in ("options", "preprocessing", "subjects_seen", "sources", "license"):
        assert getattr(found, field) == getattr(model, field)
    assert found.geometry.to_bytes() == model.geometry.to_bytes()
    assert (tmp_path / "model" / "LICENSE.txt").read_text("utf-8") == model.license


def test_fresh_weights_owe_nobody_anything(tmp_path):
    model = tiny_model(sources=[{"name": "a", "license": None}], license="text")
    fresh = model.with_params(model.params)
    assert (fresh.sources, fresh.license, fresh.subjects_seen) == ([], "", [])
    save_model(tmp_path / "model", model)
    save_model(tmp_path / "model", fresh)
    assert not (tmp_path / "model" / "LICENSE.txt").exists()


def change_config(directory, **changes):
    """Sets top-level fields of config.json; None drops one, a dict updates."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        if isinstance(value, dict):
            config[name] = {k: v for k, v in (config[name] | value).items() if v is not None}
        elif value is None:
            del config[name]
        else:
            config[name] = value
    path.write_text(json.dumps(config))
    (directory / "checksums.json").unlink(missing_ok=True)


def test_a_directory_of_an_earlier_version(tmp_path):
    """One size for a patch, fewer options, no sources."""
    model = tiny_model()
    save_model(tmp_path, model)
    later = ("in_chans", "drop_path_rate", "target_norm", "pred_mask_ratio", "mask_patch_size")
    change_config(
        tmp_path,
        model={"patch_shape": None, "patch_dim": 16, **dict.fromkeys(later)},
        sources=None,
    )
    found = load_model(tmp_path)
    assert found.options == model.options
    assert (found.sources, found.license) == ([], "")


def test_a_directory_of_a_later_version(tmp_path):
    save_model(tmp_path, tiny_model())
    change_config(tmp_path, model={"hyperbolic": True})
    with pytest.raises(InputError, match="hyperbolic, which this .*: update fmrifm"):
        load_model(tmp_path)
    change_config(tmp_path, format_version=2)
    with pytest.raises(InputError, match="format version 2.*update fmrifm"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": {"embed_dim": None}}, "damaged .*embed_dim"),
        ({"model": {"embed_dim": 15}}, "num_heads=2 must divide embed_dim=15"),
        ({"model": {"grid": [4, 9]}}, r"a grid of \(4, 9\)"),
        ({"preprocessing": None}, "damaged .*preprocessing"),
    ],
)
def test_a_damaged_directory_is_named(tmp_path, changes, words):
    save_model(tmp_path, tiny_model())
    change_config(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        load_model(tmp_path)


def test_a_changed_file_is_refused_and_the_fix_works(tmp_path):
    save_model(tmp_path, tiny_model())
    sums = (tmp_path / "checksums.json").read_bytes()
    for name in ("config.json", "model.safetensors", "geometry.npz"):
        whole = (tmp_path / name).read_bytes()
        place = len(whole) // 2
        (tmp_path / name).write_bytes(
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        )
        with pytest.raises(InputError, match=rf"{name} is damaged .*delete .*checksums.json"):
            load_model(tmp_path)
        (tmp_path / name).write_bytes(whole)
    for damaged in (b"", sums[:-20], sums.replace(b"config", b"bonfig"), b"\xff\0"):
        (tmp_path / "checksums.json").write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            load_model(tmp_path)
    (tmp_path / "checksums.json").unlink()
    edited = (tmp_path / "config.json").read_bytes().replace(b'"step": null', b'"step": 3')
    (tmp_path / "config.json").write_bytes(edited)
    assert load_model(tmp_path).step == 3


def test_a_directory_is_ours_however_damaged(tmp_path):
    save_model(tmp_path / "model", tiny_model())
    (tmp_path / "model" / "config.json").write_text("{")
    assert is_model_directory(tmp_path / "model")
    (tmp_path / "model" / "geometry.npz").unlink()
    assert not is_model_directory(tmp_path / "model")  # now nothing tells it is ours
    (tmp_path / "model" / "config.json").write_text('{"format_version": 1}')
    assert is_model_directory(tmp_path / "model")
    assert not is_model_directory(tmp_path)


def test_every_option_is_kept(tmp_path):
    """Each differs from its default somewhere in the tests of this file."""
    kept = {
        field.name
        for field in dataclasses.fields(ModelOptions)
        for options in KEPT.values()
        if getattr(options, field.name) != field.default
    }
    assert kept == set(ModelOptions.__dataclass_fields__)
    assert ModelFiles.__dataclass_fields__.keys() >= {"sources", "license"}


def test_people_are_known_again_however_they_are_written():
    hashes = [hash_subject("a", bare_subject("toy/sub-01")), hash_subject("a", "toy/02")]
    model = SimpleNamespace(subjects_seen=[{"salt": "a", "hashes": hashes}])
    seen = [ModelFiles.has_seen(model, f"toy/{x}") for x in ("01", "1", "02", "2", "10")]
    assert seen == [True, True, True, False, False]
