"""The frozen probe on simulated-like stores: finds what is there, and only that."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from data_tools.errors import InputError
from data_tools.store_writer import StoreWriter
from fmrifm.evaluation.features import clip_features
from fmrifm.evaluation.suite import probe_events
from fmrifm.input.clips import list_clips
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles, hash_subject, load_model, save_model
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from tests.conftest import toy_geometry


def write_task_store(path, subjects, effect):
    """Runs in which event "b" raises one hemisphere by `effect`."""
    geometry = toy_geometry()
    rng = np.random.default_rng(subjects[0])
    pattern = np.zeros(geometry.mask.shape)
    pattern[:, :32] = effect
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}) as writer:
        for subject in subjects:
            events, series = [], rng.normal(size=(200, *geometry.mask.shape))
            for i in range(11):
                kind = "ab"[i % 2]
                events.append({"onset": 18.0 * i, "duration": 16.0, "trial_type": kind})
                series[18 * i : 18 * i + 16] += pattern * (kind == "b")
            series = (series * geometry.mask).astype(np.float16)
            fields = {"dataset": "toy", "subject": f"{subject:02d}", "events": events}
            writer.add(f"sub-{subject:02d}", geometry.to_patches(series), **fields)
        writer.finish()
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory with fresh weights that claims to have seen subject 00."""
    geometry = toy_geometry()
    options = ModelOptions(
        grid=geometry.grid, patch_shape=(8, 8), num_frames=16, t_patch=8, embed_dim=32, depth=2,
        num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    params = nn.unbox(init_params(MaskedAutoencoder(options), jax.random.key(0)))
    seen = [{"salt": "pepper", "hashes": [hash_subject("pepper", "toy/00")]}]
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(path, ModelFiles(options, params, geometry, {"normalize": "none"}, seen))
    return path


@pytest.mark.parametrize("effect, low, high", [(0.0, 0.25, 0.75), (1.0, 0.95, 1.0)])
def test_probe_finds_an_effect_and_only_that(model, tmp_path, effect, low, high):
    groups = {"train": range(1, 7), "val": range(7, 9), "test": (0, 9, 10)}
    splits = {n: write_task_store(tmp_path / n, s, effect) for n, s in groups.items()}
    probe_events(model, splits, "trial_type", tmp_path / "probe")
    results = json.loads((tmp_path / "probe" / "results.json").read_text())
    assert results["version"] == 1 and results["classes"] == ["a", "b"]
    for row in results["results"]:
        test = row["splits"]["test"]
        assert (test["n"], test["n_subjects"], test["seen_in_pretraining"]) == (33, 3, 1)
        value = test["metrics"]["balanced_accuracy"]["value"]
        if row["representation"] == "none":
            assert value == 0.5
        elif row["representation"] in ("patch", "input"):
            assert low <= value <= high
    with np.load(tmp_path / "probe" / "predictions_patch_logistic.npz") as file:
        assert (file["prediction"] == file["target"]).mean() == pytest.approx(
            results["results"][0]["splits"]["test"]["metrics"]["accuracy"]["value"]
        )


def test_a_subject_in_two_splits_is_refused(model, tmp_path):
    groups = {"train": (1, 2), "val": (3,), "test": (2, 4)}
    splits = {n: write_task_store(tmp_path / n, s, 1.0) for n, s in groups.items()}
    with pytest.raises(InputError, match="toy/02 is in train and test"):
        probe_events(model, splits, "trial_type", tmp_path / "probe")
    with pytest.raises(InputError, match="'colour'"):
        probe_events(model, splits, "colour", tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_features_do_not_depend_on_the_batch(model, tmp_path, monkeypatch):
    sources = parse_sources(write_task_store(tmp_path / "store", (0, 1), 1.0))
    files, clips = load_model(model), list_clips(sources, 16)
    whole = clip_features(files, sources, clips)
    monkeypatch.setattr("fmrifm.evaluation.features.BATCH_PER_DEVICE", 1)
    for name, values in clip_features(files, sources, clips).items():
        assert len(values) == len(clips) == 24
        np.testing.assert_allclose(values, whole[name], atol=1e-5)


def test_a_damaged_model_directory_is_named(model, tmp_path):
    copy = tmp_path / "copy"
    for name in ("config.json", "model.safetensors", "geometry.npz"):
        shutil.copytree(model, copy, dirs_exist_ok=True)
        (copy / name).write_bytes((copy / name).read_bytes()[:50])
        with pytest.raises(InputError, match="damaged"):
            load_model(copy)
        (copy / name).unlink()
        with pytest.raises(InputError, match="missing"):
            load_model(copy)
