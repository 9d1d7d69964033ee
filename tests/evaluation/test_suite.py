"""The frozen probe on simulated-like stores: finds what is there, and only that."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs.probe import get_config
from data_tools.errors import InputError
from data_tools.geometry import Geometry
from data_tools.store_writer import StoreWriter
from fmrifm.evaluation import suite
from fmrifm.evaluation.features import clip_features
from fmrifm.evaluation.suite import describe_results, probe
from fmrifm.input.clips import list_clips
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles, hash_subject, load_model, save_model
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.trainer.start import flatten
from tests.conftest import fields_read, toy_geometry
from tests.data_tools.small_stores import write_small_store


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
    return write_model(tmp_path_factory.mktemp("model") / "model")


def write_model(path, **changes):
    geometry = toy_geometry()
    options = ModelOptions(
        grid=geometry.grid, patch_shape=(8, 8), num_frames=16, t_patch=8, embed_dim=32, depth=2,
        num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, **changes,
    )  # fmt: skip
    params = nn.unbox(init_params(MaskedAutoencoder(options), jax.random.key(0)))
    seen = [{"salt": "pepper", "hashes": [hash_subject("pepper", "toy/00")]}]
    save_model(path, ModelFiles(options, params, geometry, {"normalize": "none"}, seen))
    return path


def probe_config(model, splits=None, **changes):
    config = get_config()
    config.model = str(model)
    config.data.update(splits or {})
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@pytest.mark.parametrize("effect, low, high", [(0.0, 0.25, 0.75), (1.0, 0.95, 1.0)])
def test_probe_finds_an_effect_and_only_that(model, tmp_path, effect, low, high):
    groups = {"train": range(1, 7), "val": range(7, 9), "test": (0, 9, 10)}
    splits = {n: write_task_store(tmp_path / n, s, effect) for n, s in groups.items()}
    probe(probe_config(model, splits), tmp_path / "probe")
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
    with pytest.raises(InputError, match="train and test share 1 value of 'subject' \\(toy/02\\)"):
        probe(probe_config(model, splits), tmp_path / "probe")
    with pytest.raises(InputError, match="'colour'"):
        probe(probe_config(model, splits, target="event:colour"), tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_features_do_not_depend_on_the_batch(model, tmp_path, monkeypatch):
    sources = parse_sources(write_task_store(tmp_path / "store", (0, 1), 1.0))
    files, clips = load_model(model), list_clips(sources, 16)
    whole = clip_features(files, sources, clips)
    monkeypatch.setattr("fmrifm.evaluation.features.BATCH_PER_DEVICE", 1)
    assert list(clip_features(files, sources, clips, ("cls",))) == ["cls"]
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


def test_several_test_splits_in_a_folder(model, tmp_path):
    groups = {"train": range(1, 6), "validation": (6, 7), "test": (8, 9), "testid": (10,)}
    for name, subjects in groups.items():
        write_task_store(tmp_path / "stores" / name, subjects, 1.0)
    config = probe_config(
        model, data__folder=str(tmp_path / "stores"), representations=("patch",),
        baselines=("connectome",),
    )  # fmt: skip
    with fields_read(config) as read:
        results = probe(config, tmp_path / "probe")
    assert set(flatten(config.to_dict())) - read == set()  # no field is idle
    assert [row["representation"] for row in results["results"]] == ["patch", "connectome_patches"]
    splits = results["results"][0]["splits"]
    assert {name: split["n"] for name, split in splits.items()} == {"test": 22, "testid": 11}
    with np.load(tmp_path / "probe" / "predictions_patch_logistic.npz") as file:
        assert file["split"].tolist() == ["test"] * 22 + ["testid"] * 11
        assert file["score"].shape == (33, 2)
    config.representations = ("avg_patch",)
    probe(config, tmp_path / "probe")  # again: what it has not made is gone
    assert {path.name for path in (tmp_path / "probe").iterdir()} == {
        "results.json", "results.csv",
        "predictions_avg_patch_logistic.npz", "predictions_connectome_patches_logistic.npz",
    }  # fmt: skip
    table = describe_results(results)
    assert "patch" in table and "testid 100.0%" in table and "n = 22" in table


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model": ""}, "needs a model"),
        ({"unit": "run"}, "unit has no 'run': choose of clip"),
        ({"heads": ("attn",)}, "heads has no 'attn'"),
        ({"representations": ("reg",)}, "representations has no 'reg'"),
        ({"baselines": ("pca",)}, "baselines has no 'pca'"),
        ({"representations": (), "baselines": ("untrained",)}, "Nothing is to be fitted"),
        ({"target": "run:age"}, "event:FIELD"),
        ({"target": "event:trial_type;nowhere"}, "no split that ships with us"),
        ({"data__test": "train=STORE"}, "A test split is called 'train'"),
        ({"data__val": ""}, "needs data.train, data.val and data.test"),
        ({"data__folder": "EMPTY"}, "no stores train and validation"),
        ({"data__parcels": "STORE"}, "no store of parcels"),
        ({"leak_keys": ("colour",)}, "has a 'colour'"),
    ],
)
def test_what_makes_no_sense_is_told(model, tmp_path, changes, told):
    store = write_task_store(tmp_path / "store", (1, 2), 1.0)
    fill = {"STORE": store, "EMPTY": str(tmp_path / "store"), "train=STORE": f"train={store}"}
    changes = {
        name: fill.get(value, value) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    splits = {
        name: write_task_store(tmp_path / name, (i,), 1.0)
        for i, name in enumerate(("train", "val", "test"))
    }
    with pytest.raises(InputError, match=told):
        probe(probe_config(changes.pop("model", model), splits, **changes), tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_what_cannot_be_compared_is_told_before_anything_is_encoded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "clip_features", lambda *_: pytest.fail("encoded"))
    splits = {
        name: write_task_store(tmp_path / name, (i,), 1.0)
        for i, name in enumerate(("train", "val", "test"))
    }
    geometry = Geometry("six", np.ones((6, 1), bool), (1, 1))
    runs = {f"sub-0{i}": {"frames_TxNxP": np.zeros((200, 6, 1), np.float16)} for i in range(2)}
    parcels = write_small_store(tmp_path / "parcels", runs, geometry=geometry)
    with pytest.raises(InputError, match="Run sub-02 is in no store of data.parcels"):
        probe(probe_config(model, splits, data__parcels=str(parcels.path)), tmp_path / "probe")
    without = write_model(tmp_path / "without", class_token=False)
    with pytest.raises(InputError, match="has no class token: choose avg_patch"):
        probe(probe_config(without, splits, representations=("cls",)), tmp_path / "probe")


def test_a_model_of_random_weights_depends_on_the_seed(model):
    files = load_model(model)
    first, same, other = (suite._untrained(files, seed) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, same.params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first.params, other.params))
