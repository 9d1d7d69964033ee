"""The frozen probe on simulated-like stores: finds what is there, and only that."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn

from configs.probe import get_config
from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.store.writer import StoreWriter
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles, hash_subject, load_model, save_model
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.probe.features import encode as features
from fmrifm.probe.features import table_rows as entries
from fmrifm.probe.features.baselines import BASELINES, untrained
from fmrifm.probe.features.encode import KINDS, encode, fingerprint, keep_blocks
from fmrifm.probe.results.results import describe_results
from fmrifm.probe.run import run_probes
from fmrifm.probe.samples.labels import parse_target
from fmrifm.probe.samples.samples import make_samples
from fmrifm.probe.samples.splits import open_splits
from fmrifm.probe.suite import probe
from fmrifm.runs.config import flatten
from tests.conftest import fields_read, toy_geometry
from tests.data_tools.store.small_stores import write_small_store


def write_task_store(path, subjects, effect, geometry=None, dataset="toy"):
    """Runs in which event "b" raises one hemisphere by `effect`."""
    geometry = geometry or toy_geometry()
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
            fields = {"dataset": dataset, "subject": f"{subject:02d}", "events": events}
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


def samples_of(sources):
    return make_samples(sources, parse_target("event:trial_type"), unit="clip", num_frames=16)


def test_features_do_not_depend_on_the_batch(model, tmp_path, monkeypatch):
    sources = parse_sources(write_task_store(tmp_path / "store", (0, 1), 1.0))
    files, samples = load_model(model), samples_of(sources)
    whole = encode(files, sources, samples, KINDS, tmp_path / "a")
    monkeypatch.setattr("fmrifm.probe.features.encode.BATCH_PER_DEVICE", 1)
    assert list(encode(files, sources, samples, ("cls", "reg"), tmp_path / "b")) == ["cls"]
    found = encode(files, sources, samples, KINDS, tmp_path / "b")
    assert set(found) == set(KINDS) - {"reg"} and found["patch"].dtype == np.float16
    for name, values in found.items():
        assert len(values) == len(samples) == 22
        np.testing.assert_allclose(values, whole[name], atol=1e-5 if values.itemsize > 2 else 4e-3)
    count = found["has_data"].sum(1, keepdims=True)
    mean = found["patch"].astype(np.float32).sum(1) / count
    np.testing.assert_allclose(mean, found["avg_patch"], atol=2e-3)


def test_features_are_made_once_and_go_on_where_they_were(model, tmp_path, monkeypatch):
    sources = parse_sources(write_task_store(tmp_path / "store", (0, 1), 1.0))
    files, samples = load_model(model), samples_of(sources)
    kinds = ("patch", "has_data")
    whole = encode(files, sources, samples, kinds, tmp_path / "whole")
    monkeypatch.setattr(features, "BATCH_PER_DEVICE", 1)
    monkeypatch.setattr(features, "_FLUSH_EVERY", 1)
    encoded, rows = features._encoded, []

    def killed(program, bounds):
        rows.append(bounds)
        for i, batch in enumerate(encoded(program, bounds)):
            if len(rows) == 1 and i == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(features, "_encoded", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(files, sources, samples, kinds, tmp_path / "cache")
    found = encode(files, sources, samples, kinds, tmp_path / "cache")
    size = jax.local_device_count()
    assert rows == [(0, 22), (2 * size, 22)]
    np.testing.assert_allclose(found["patch"], whole["patch"], atol=4e-3)
    encode(files, sources, samples, kinds, tmp_path / "cache")
    assert len(rows) == 2  # nothing was made again
    other = dataclasses.replace(files, params=jax.tree.map(lambda x: x + 1, files.params))
    fewer = dataclasses.replace(samples, clips=samples.clips[:3], n_frames_C=samples.n_frames_C[:3])
    names = {fingerprint(f, sources, s) for f in (files, other) for s in (samples, fewer)}
    assert len(names) == 4
    assert [p.name for p in (tmp_path / "cache").glob("*/*")].sort() == [
        "has_data.npy",
        "patch.npy",
    ].sort()


def test_a_token_is_one_place_in_splits_of_different_masks(model, tmp_path, monkeypatch):
    cut = toy_geometry(cut_corner=True)
    mirrored = dataclasses.replace(cut, mask=cut.mask[:, ::-1].copy())
    masks = {"train": cut, "val": cut, "test": mirrored}
    groups = {"train": range(1, 7), "val": range(7, 9), "test": (9, 10)}
    paths = {n: write_task_store(tmp_path / n, groups[n], 1.0, masks[n]) for n in masks}
    config = probe_config(
        model, paths, heads=("logistic", "attn", "mlp"), baselines=BASELINES, grid__epochs=1,
        grid__updates=2, grid__warmup_epochs=0, grid__lr_multipliers=(1.0,),
        representations=("patch",),
    )  # fmt: skip
    rows = probe(config, tmp_path / "probe")["results"]
    for row in rows:
        if row["head"] == "logistic" and row["representation"] in ("patch", "input", "pca"):
            assert row["splits"]["test"]["metrics"]["accuracy"]["value"] >= 0.9
    splits = open_splits(config, 16)
    assert splits.geometry.n_patches == toy_geometry().n_patches
    for name, geometry in masks.items():
        found = encode(
            load_model(model), splits.sources[name], splits.samples[name], ("has_data",),
            tmp_path / "probe" / "features", geometry=splits.geometry,
        )  # fmt: skip
        here = np.isin(splits.geometry.patch_index, geometry.patch_index)
        assert (found["has_data"] == np.tile(here, 2)).all()
    # Heads of raw tokens are as wide as these, up to a limit.
    for limit, inner in ((512, 0), (511, 32)):
        monkeypatch.setattr(entries, "_WIDEST_TOKENS", limit)
        cache = tmp_path / "probe" / "features"
        found = entries.find_entries(config, load_model(model), splits, None, cache)
        assert [x.inner for x in found if x.name == "patch_embedding"] == [inner]


def test_features_that_are_no_numbers_are_refused(model, tmp_path):
    groups = {"train": (1, 2, 3), "val": (4,), "test": (5,)}
    splits = {n: write_task_store(tmp_path / n, s, 1.0) for n, s in groups.items()}
    files = load_model(model)
    broken = files.with_params(jax.tree.map(lambda x: np.full_like(x, np.nan), files.params))
    config = probe_config(model, splits, heads=("attn",), representations=("patch",))
    with pytest.raises(InputError, match="patch of clips 0 to .* of train is NaN"):
        probe(config, tmp_path / "probe", broken)
    assert not list((tmp_path / "probe").rglob("*.npy"))
    assert not (tmp_path / "probe" / "results.json").exists()


def test_a_short_run_is_padded_and_its_padding_left_out(model, tmp_path):
    geometry, rng = toy_geometry(), np.random.default_rng(0)
    series = (rng.normal(size=(16, *geometry.mask.shape)) * geometry.mask).astype(np.float16)
    runs = {
        name: {
            "frames_TxNxP": geometry.to_patches(series[:n]),
            "dataset": "toy",
            "subject": name,
            "kind": name,
        }
        for name, n in (("long", 16), ("short", 8))
    }
    store = write_small_store(tmp_path / "store", runs, geometry=geometry)
    sources, files = parse_sources(str(store.path)), load_model(model)
    samples = make_samples(sources, parse_target("run:kind"), unit="run", num_frames=16)
    found = encode(files, sources, samples, ("has_data", "input"), tmp_path / "cache")
    n = geometry.n_patches
    assert found["has_data"][:, :n].all() and found["has_data"][:, n:].all(1).tolist() == [
        True,
        False,
    ]
    same = slice(1, n)  # one run has a missing pixel in the first patch
    np.testing.assert_allclose(found["input"][1, same], found["input"][0, same], atol=1e-6)
    assert not found["input"][1, n:].any()


def test_layers_of_the_encoder(model, tmp_path):
    sources = parse_sources(write_task_store(tmp_path / "store", (0,), 1.0))
    files, samples = load_model(model), samples_of(sources)
    whole, last, first, none = (
        encode(f, sources, samples, ("avg_patch",), tmp_path / "cache")["avg_patch"]
        for f in (files, *(keep_blocks(files, k) for k in (2, 1, 0)))
    )
    np.testing.assert_array_equal(whole, last)
    assert np.abs(first - whole).max() > 1e-3 and np.abs(first - none).max() > 1e-3


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


def test_several_test_splits_in_a_folder(model, tmp_path, monkeypatch):
    groups = {"train": range(1, 6), "validation": (6, 7), "test": (8, 9), "testid": (10,)}
    for name, subjects in groups.items():
        write_task_store(tmp_path / "stores" / name, subjects, 1.0)
    config = probe_config(
        model, data__folder=str(tmp_path / "stores"), representations=("patch",),
        baselines=("connectome",), heads=("logistic", "linear", "finetune"), grid__epochs=5,
        grid__updates=4, finetune__epochs=1, finetune__warmup_epochs=0,
    )  # fmt: skip
    # What is only written down is not read.
    monkeypatch.setattr("fmrifm.probe.results.results.config_dict", lambda _: {})
    monkeypatch.setattr("fmrifm.probe.check_config.check_numbers", lambda *_: None)
    with fields_read(config) as read:
        run_probes(config, tmp_path / "probe")
    # "wait" is for checkpoints.
    assert set(flatten(config.to_dict())) - read == {"wait"}  # no field is idle
    config.heads = ("logistic",)
    results = probe(config, tmp_path / "probe")
    assert [row["representation"] for row in results["results"]] == ["patch", "connectome_patches"]
    splits = results["results"][0]["splits"]
    assert {name: split["n"] for name, split in splits.items()} == {"test": 22, "testid": 11}
    with np.load(tmp_path / "probe" / "predictions_patch_logistic.npz") as file:
        assert file["split"].tolist() == ["test"] * 22 + ["testid"] * 11
        assert file["score"].shape == (33, 2)
    config.representations = ("avg_patch",)
    probe(config, tmp_path / "probe")  # again: what it has not made is gone
    names = {path.name for path in (tmp_path / "probe").iterdir()} - {"uncommitted.diff"}
    assert names == {
        "results.json", "results.csv", "provenance.json", "features",
        "predictions_avg_patch_logistic.npz", "predictions_connectome_patches_logistic.npz",
    }  # fmt: skip
    config.target = "run:subject"
    with pytest.raises(InputError, match="results of another question \\(event:trial_type, clip"):
        probe(config, tmp_path / "probe")
    table = describe_results(results)
    assert "patch" in table and "testid 100.0%" in table and "n = 22" in table


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model": ""}, "needs a model"),
        ({"unit": "clips"}, "unit has no 'clips': choose of clip, run"),
        ({"unit": "run"}, "unit"),
        ({"task": "ranking"}, "task has no 'ranking'"),
        ({"run": "all"}, "run has no 'all'"),
        ({"heads": ("ridge",)}, "The head ridge is not of classification: set task"),
        ({"heads": ("attn",), "representations": ("cls",)}, "No head takes .* 'cls'"),
        ({"representations": ("tokens",)}, "representations has no 'tokens'"),
        ({"representations": ("reg",)}, "has no registers"),
        ({"representations": ("patch@3",)}, "past the last of the 2 blocks"),
        ({"representations": ("patch@x",)}, "'patch@x' names no layer"),
        ({"representations": ("cls", "cls")}, "representations names one twice"),
        ({"heads": ("finetune",), "finetune__mode": "lroa"}, "mode='lroa' is unknown"),
        ({"heads": ("attn",), "grid__epochs": 4}, "warmup_epochs"),
        ({"heads": ("attn",), "grid__epochs": 0}, "grid.epochs=0 must be 1 or more"),
        (
            {"heads": ("finetune",), "unit": "run", "target": "run:subject"},
            "takes single clips, not a run",
        ),
        ({"random_splits": -1}, "random_splits"),
        (
            {"task": "regression", "heads": ("ridge",), "grid__balanced_sampling": True},
            "balanced_sampling is of classes",
        ),
        ({"baselines": ("ica",)}, "baselines has no 'ica'"),
        ({"bins": (1.0,), "task": "regression", "heads": ("ridge",)}, "bins and quantiles make"),
        ({"random_splits": 3, "task": "regression", "heads": ("ridge",)}, "random_splits"),
        ({"representations": (), "baselines": ("untrained",)}, "Nothing is to be fitted"),
        ({"target": "runs:age"}, "event:FIELD"),
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


def test_a_table_must_say_who_is_who(model, tmp_path):
    (tmp_path / "ages.csv").write_text("subject,age\n01,20\n02,30\n03,20\n04,30\n")
    names = ("train", "val", "test")
    splits = {n: write_task_store(tmp_path / n, (i, i + 1), 1.0) for i, n in enumerate(names)}
    splits["test"] = write_task_store(tmp_path / "other", (1, 2), 1.0, dataset="other")
    config = probe_config(model, splits, target=f"table:{tmp_path}/ages.csv:age", unit="run")
    with pytest.raises(InputError, match="toy and other both have a subject 01"):
        probe(config, tmp_path / "probe")


def test_what_cannot_be_compared_is_told_before_anything_is_encoded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "encode", lambda *_: pytest.fail("encoded"))
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
    first, same, other = (untrained(files, seed) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first.params, same.params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first.params, other.params))
