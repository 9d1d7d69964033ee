"""`python -m fmrifm.port` and `fmrifm.from_pretrained`: whatever names a model becomes one."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

import fmrifm
from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.model.files import load_model, save_model
from fmrifm.model.options import ModelOptions
from fmrifm.published.weights import load_published, save_published
from fmrifm.runs.checkpoint import restore_params
from fmrifm.runs.export import export_checkpoint
from fmrifm.runs.port_model import describe, port
from fmrifm.trainer.loop import train
from fmrifm.trainer.program import Program
from tests.conftest import ROOT
from tests.published.models import CHECKPOINT, DEFAULT, SHAPES, assert_same_params, tiny_model


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fmrifm.port", *arguments],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def counting():
    """Runs whose steps only count: nothing compiles."""

    def step(state, batch):
        params = jax.tree.map(lambda x: x + 0.5, state.params)
        state = dataclasses.replace(state, step=state.step + 1, params=params)
        return state, {"loss": 1.0, "first_bad_step": -1}

    compiled = types.SimpleNamespace(compile=lambda: step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "lower_train_step", lambda self: compiled)
        yield


@pytest.fixture(scope="module")
def workdir(toy_config, one_device, counting, tmp_path_factory):
    """A finished run with checkpoints 2, 4 and 6."""
    path = tmp_path_factory.mktemp("run") / "workdir"
    assert train(toy_config(keep_every=2, data__eval=""), path) == 0
    return path


@pytest.fixture
def running(workdir, tmp_path):
    """The same, before it has exported its model."""
    path = tmp_path / "running"
    shutil.copytree(workdir, path, ignore=shutil.ignore_patterns("model"))
    return path


def test_the_command(tmp_path):
    """To our form, to the published one, and a sentence for nonsense."""
    geometry = Geometry("flat-toy", np.eye(16, 32) > 0, (8, 8))
    (tmp_path / "geometry.npz").write_bytes(geometry.to_bytes())
    done = command(f"--input={CHECKPOINT}", f"--output={tmp_path}/model", f"--geometry={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f"The model is in {tmp_path}/model." in done.stdout
    assert "10,432 parameters; grid=4x8, patch_shape=4x4, num_frames=4" in done.stdout
    assert load_model(tmp_path / "model").geometry.n_patches == 4
    done = command(f"--input={tmp_path}/none.pth", f"--output={tmp_path}/other")
    assert done.returncode == 1 and not (tmp_path / "other").exists()
    assert done.stderr.strip().count("\n") == 0 and "none.pth' is no model" in done.stderr


def test_round_trip_of_a_checkpoint(tmp_path, golden):
    """Reference -> ours -> reference, bit by bit."""
    port(str(CHECKPOINT), str(tmp_path / "model"))
    port(str(tmp_path / "model"), str(tmp_path / "published" / "a.safetensors"))
    state = safetensors.numpy.load_file(tmp_path / "published" / "a.safetensors")
    case = golden("cm_tiny_default_like")
    expected = {k.removeprefix("param/"): v for k, v in case.items() if k.startswith("param/")}
    assert state.keys() == expected.keys()
    assert all(state[name].tobytes() == expected[name].tobytes() for name in state)


@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_of_ours(tmp_path, name):
    model = tiny_model(SHAPES[name], sources=[{"name": "a", "license": "mit"}], license="text")
    save_model(tmp_path / "ours", model)
    port(str(tmp_path / "ours"), str(tmp_path / "a.safetensors"))
    assert (tmp_path / "LICENSE.txt").read_text() == "text"
    port(str(tmp_path / "a.safetensors"), str(tmp_path / "again"), str(tmp_path / "ours"))
    for file in ("config.json", "model.safetensors", "LICENSE.txt"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "ours" / file).read_bytes()


def test_a_checkpoint_is_exported(workdir, running, tmp_path):
    """The newest one, or the one that is named; with the same facts as at the end of a run."""
    whole = load_model(workdir / "model")
    for i, source in enumerate((running, running / "checkpoints", workdir / "checkpoints" / "6")):
        files = port(str(source), str(tmp_path / f"model{i}"))
        assert_same_params(files.params, whole.params)
        found = load_model(tmp_path / f"model{i}")
        for field in ("options", "preprocessing", "subjects_seen", "sources", "license"):
            assert getattr(found, field) == getattr(whole, field), field
        assert found.geometry.to_bytes() == whole.geometry.to_bytes()
    early = port(str(workdir / "checkpoints" / "2"), str(tmp_path / "early.safetensors"))
    params = restore_params(workdir / "checkpoints" / "2", _on_device(early.params))
    assert_same_params(early.params, jax.device_get(params))
    assert not np.array_equal(
        early.params["encoder"]["norm"]["bias"], whole.params["encoder"]["norm"]["bias"]
    )


def _on_device(params):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), params)


def test_a_workdir_with_a_model_gives_that(workdir, tmp_path):
    port(str(workdir), str(tmp_path / "model"))
    for file in ("config.json", "model.safetensors", "geometry.npz"):
        assert (tmp_path / "model" / file).read_bytes() == (workdir / "model" / file).read_bytes()


def test_a_run_that_saves_while_its_checkpoint_is_exported(running, monkeypatch):
    """Facts and weights are of one step."""
    from fmrifm.runs import export

    shutil.move(running / "checkpoints" / "6", running / "later")
    read = export.restore_meta

    def save_in_between(path):
        meta = read(path)
        shutil.move(running / "later", running / "checkpoints" / "6")
        return meta

    monkeypatch.setattr(export, "restore_meta", save_in_between)
    files = export_checkpoint(running)
    monkeypatch.undo()
    assert files.step == 4
    assert_same_params(files.params, export_checkpoint(running / "checkpoints" / "4").params)
    assert export_checkpoint(running).step == 6


def test_a_workdir_that_has_trained_on(workdir, tmp_path, capsys):
    """The model of its end is used, and the newer checkpoint named."""
    path = shutil.copytree(workdir, tmp_path / "run")
    assert fmrifm.from_pretrained(path)
    assert "Using the model" not in capsys.readouterr().out
    (path / "checkpoints" / "8").mkdir()
    fmrifm.from_pretrained(path)
    told = capsys.readouterr().out
    assert "Using the model of step 6" in told and f"--input={path}/checkpoints/8" in told


def test_a_run_that_has_not_saved(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for source in (tmp_path / "run", tmp_path / "run" / "checkpoints"):
        with pytest.raises(InputError, match="has not saved anything yet"):
            port(str(source), str(tmp_path / "model"))


def test_licence_and_sources_travel(toy_config, workdir, tmp_path):
    """From published weights through a run, also a resumed one, and back."""
    published = tmp_path / "published" / "flat.safetensors"
    port(str(workdir), str(published))
    config = json.loads((published.parent / "config.json").read_text())
    del config["sources"], config["subjects_seen"]  # as if others had made them
    safetensors.numpy.save_file(safetensors.numpy.load_file(published), published)
    (published.parent / "config.json").write_text(json.dumps(config))
    (published.parent / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (published.parent / "LICENSE.models").write_text("for the weights")
    facts = ([{"name": "flat.safetensors", "license": "cc-by-nc-4.0"}], "for the weights")

    def told(files):
        return files.sources, files.license

    def run(name, init_from):
        config = toy_config(total_steps=4, keep_every=2, data__eval="", init_from=str(init_from))
        assert train(config, tmp_path / name) == 0
        return tmp_path / name

    tuned = run("tuned", published)
    assert told(load_model(tuned / "model")) == facts
    for folder in ("model", "checkpoints/4"):  # as if it had been killed in between
        shutil.rmtree(tuned / folder)
    assert told(export_checkpoint(tuned)) == facts
    run("tuned", published)
    assert told(load_model(tuned / "model")) == facts
    assert told(export_checkpoint(tuned / "checkpoints" / "4")) == facts
    for source, place in ((tuned, "a"), (tuned / "checkpoints" / "2", "b")):
        port(str(source), str(tmp_path / place / "flat.safetensors"))
        assert told(load_published(tmp_path / place / "flat.safetensors")) == facts
        assert (tmp_path / place / "LICENSE.txt").read_text() == facts[1]
    for source in (tuned, tmp_path / "a" / "flat.safetensors"):  # a child of the child
        assert told(load_model(run(f"from {source.name}", source) / "model")) == facts


def test_a_checkpoint_of_an_earlier_version(running, monkeypatch):
    from fmrifm.runs import export

    meta = export.restore_meta(running)
    for name in ("preprocessing", "sources", "license"):
        meta.pop(name, None)
    monkeypatch.setattr(export, "restore_meta", lambda _: meta)
    files = export_checkpoint(running)
    assert files.preprocessing == {"normalize": "frame"}
    assert (files.sources, files.license) == ([], "")


def test_a_checkpoint_takes_no_other_flags(running, tmp_path):
    with pytest.raises(InputError, match="leave out the other flags"):
        port(str(running), str(tmp_path / "model"), geometry=str(tmp_path))
    assert not (tmp_path / "model").exists()


def test_outputs_that_are_something_else(tmp_path):
    save_model(tmp_path / "ours", tiny_model())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("words")
    (tmp_path / "file").write_text("words")
    (tmp_path / "dir.safetensors").mkdir()
    (tmp_path / "empty").mkdir()
    ours = str(tmp_path / "ours")
    for output, words in (
        ("home", "holds something else than a model"),
        ("file", "is a file"),
        ("dir.safetensors", "is a directory"),
        ("ours/model.safetensors", "does not belong to"),
    ):
        with pytest.raises(InputError, match=words):
            port(ours, str(tmp_path / output))
    assert (tmp_path / "home" / "thesis.txt").read_text() == "words"
    port(str(CHECKPOINT), str(tmp_path / "empty"))
    port(ours, str(tmp_path / "empty"))  # an older model is replaced
    assert load_model(tmp_path / "empty").geometry.space == "flat-toy"


def test_a_failed_conversion_leaves_nothing(tmp_path):
    (tmp_path / "cut.pth").write_bytes(CHECKPOINT.read_bytes()[:-100])
    for output in ("model", "new/a.safetensors"):
        with pytest.raises(InputError, match="damaged"):
            port(str(tmp_path / "cut.pth"), str(tmp_path / output))
    assert [p.name for p in tmp_path.iterdir()] == ["cut.pth"]


def test_what_is_told():
    model = tiny_model()
    assert describe(model).endswith("; licence: none")
    text = describe(tiny_model(sources=[{"name": "a", "license": "mit"}] * 2, license="text"))
    assert text.endswith("; licence: mit") and "pos_embed" not in text
    sources = [{"name": "a", "license": None}]
    assert describe(tiny_model(sources=sources)).endswith("licence: unknown")
    assert "pos_embed=sincos" in describe(tiny_model(SHAPES["sincos"]))


def test_from_pretrained(workdir, running, tmp_path):
    """Our directory, a workdir, published weights; a run without a model says how to get one."""
    for source in (workdir, workdir / "model", workdir / "model" / "model.safetensors"):
        model = fmrifm.from_pretrained(source)
        assert_same_params(model.params, load_model(workdir / "model").params)
    assert model.config.embed_dim == 64 and model.geometry.space == "toy"
    save_published(tmp_path / "older" / "model.safetensors", tiny_model())
    for source in (CHECKPOINT, str(tmp_path / "older"), tmp_path / "older" / "model.safetensors"):
        model = fmrifm.from_pretrained(source)
        assert isinstance(model.options, ModelOptions) and model.options.grid == DEFAULT.grid
    for source in (running, running / "checkpoints", running / "checkpoints" / "6"):
        with pytest.raises(InputError, match=r"has checkpoints and no model/.*fmrifm.port --input"):
            fmrifm.from_pretrained(source)
    for source in (tmp_path, tmp_path / "nothing", workdir / "config.json"):
        with pytest.raises(InputError, match="is no model: give a model directory"):
            fmrifm.from_pretrained(source)


def test_another_mask_for_our_model(tmp_path):
    save_model(tmp_path / "ours", tiny_model())
    geometry = Geometry("flat-other", np.eye(16, 32) > 0, (8, 8))
    (tmp_path / "geometry.npz").write_bytes(geometry.to_bytes())
    model = fmrifm.from_pretrained(tmp_path / "ours", geometry=str(tmp_path))
    assert model.geometry.n_patches == 4 and model.geometry.space == "flat-other"
    with pytest.raises(InputError, match="leave out --num_heads"):
        fmrifm.from_pretrained(tmp_path / "ours", num_heads=4)


def test_import_is_light():
    code = "import sys, fmrifm; assert not {'jax', 'flax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
