"""The probe from stores to results: every unit, task, head and baseline finds what was put in."""

import functools
from itertools import combinations

import jax
import numpy as np
import pytest

from data_tools.store.writer import StoreWriter
from fmrifm.probe.features import encode as features
from fmrifm.probe.features.baselines import BASELINES
from fmrifm.probe.suite import probe
from fmrifm.trainer import mesh
from tests.conftest import toy_geometry
from tests.probe.test_suite import probe_config, write_model

# A tiny grid, with learning rates for so few updates.
GRID = {
    "grid__epochs": 2, "grid__updates": 10, "grid__warmup_epochs": 0, "grid__batch_size": 24,
    "grid__lr_multipliers": (1.0, 100.0, 1000.0), "baselines": (),
}  # fmt: skip
SUBJECTS = {"train": range(24), "val": range(24, 32), "test": range(32, 44)}
WINDOW, N_FRAMES = 16, 36  # of runs: two windows, and a tail


def write_runs(path, runs, seed=0):
    """Noise of unit size with a signal.

    Args:
      runs: (key, fields, signal), the last of a shape that broadcasts to frames (T, H, W).
    """
    geometry, rng = toy_geometry(), np.random.default_rng(seed)
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}) as writer:
        for key, fields, signal in runs:
            series = rng.normal(size=(N_FRAMES, *geometry.mask.shape)) + signal
            series = (series * geometry.mask).astype(np.float16)
            writer.add(key, geometry.to_patches(series), dataset="toy", **fields)
        writer.finish()
    return str(path)


def on_one_device(monkeypatch):
    """Features are made on one of the eight devices: their programs compile faster."""
    first = jax.devices()[:1]
    monkeypatch.setattr(features, "make_mesh", lambda sizes, _: mesh.make_mesh(sizes, first))


def age_of(subject):
    return 20.0 + (subject * 7 % 12) * 5


def value(row, metric, test="test"):
    return row["splits"][test]["metrics"][metric]["value"]


def by_name(results):
    return {(row["representation"], row["head"]): row for row in results["results"]}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two sessions of each person: sex is in one hemisphere in the second window, age in both
    windows of the other."""
    root, mask = tmp_path_factory.mktemp("people"), toy_geometry().mask
    late = (np.arange(N_FRAMES) // WINDOW == 1)[:, None, None]
    left = (np.arange(mask.shape[1]) < 32)[None, None]
    splits = {}
    for name, subjects in SUBJECTS.items():
        runs = []
        for i in subjects:
            sex, age = "FM"[i % 2], age_of(i)
            signal = 2 * (sex == "M") * late * left + (age - 50) / 40 * ~left
            who = {"subject": f"{i:02d}", "sex": sex, "age": age}
            runs += [(f"sub-{i:02d}_ses-{s}", who | {"session": s}, signal) for s in "12"]
        splits[name] = write_runs(root / name, runs, seed=len(subjects))
    return splits


@pytest.fixture(scope="module")
def ask(people, tmp_path_factory):
    """Runs probes of one model on people; they share its features."""
    root = tmp_path_factory.mktemp("probe")
    model = write_model(root / "model")
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        yield lambda **changes: probe(
            probe_config(model, people, cache_dir=str(root / "features"), **GRID | changes),
            tmp_path_factory.mktemp("results"),
        )


def test_every_baseline_stands_beside_heads_that_read_all_windows_of_a_run(ask):
    heads = ("logistic", "attn", "mlp")
    rows = by_name(ask(
        unit="run", target="run:sex", representations=("patch",), heads=heads, baselines=BASELINES
    ))  # fmt: skip
    baselines = {("untrained_patch", head) for head in heads}
    baselines |= {(x, h) for x in ("connectome_patches", "pca", "input") for h in heads[::2]}
    baselines |= {("patch_embedding", "attn"), ("identity", "mlp"), ("none", "majority")}
    assert {key for key, row in rows.items() if row["baseline"]} == baselines
    assert rows.keys() == baselines | {("patch", head) for head in heads}
    for key, row in rows.items():
        found = row["splits"]["test"]
        assert (found["n"], found["n_subjects"]) == (24, 12)
        assert value(row, "balanced_accuracy") >= 0.85 or key == ("none", "majority"), key
        if key not in baselines:
            assert found["chance"]["kind"] == "across" and found["chance"]["p"] < 0.01
            assert set(found["versus"]) == {"/".join(other) for other in baselines}
            gain = value(row, "accuracy") - value(rows["none", "majority"], "accuracy")
            assert found["versus"]["none/majority"]["difference"] == pytest.approx(gain)
    assert value(rows["none", "majority"], "balanced_accuracy") == 0.5


def test_a_subject_is_one_sample_of_all_its_runs(ask):
    results = ask(unit="subject", target="run:sex", representations=("avg_patch",))
    (row,) = results["results"]
    found = row["splits"]["test"]
    assert (found["n"], found["n_subjects"]) == (12, 12)
    assert value(row, "balanced_accuracy") >= 0.9
    # Subjects are drawn as it is.
    assert "subject_low" not in found["metrics"]["accuracy"]
    # The tails of both runs of all subjects.
    assert results["left_out"]["test"] == {"unlabelled": 0, "dropped_frames": 2 * 12 * 4}


def test_quantiles_are_those_of_the_training_set(ask):
    results = ask(unit="session", target="run:age", quantiles=4, representations=("patch",))
    assert results["classes"] == ["<33.75", "33.75 to 47.5", "47.5 to 61.25", ">=61.25"]
    (row,) = results["results"]
    confusion = np.array(row["splits"]["test"]["confusion"])
    ages = np.repeat([age_of(i) for i in SUBJECTS["test"]], 2)
    assert confusion.sum(1).tolist() == np.histogram(ages, [0, 33.75, 47.5, 61.25, 99])[0].tolist()
    assert value(row, "balanced_accuracy") >= 0.6
    # Nobody is taken for much older or younger.
    assert (np.abs(np.subtract(*np.nonzero(confusion))) <= 1).all()


def test_numbers_are_read_on_subjects_who_were_held_out(ask):
    rows = by_name(ask(
        unit="run", task="regression", target="run:age", heads=("ridge", "knn", "linear"),
        representations=("avg_patch", "cls_avg_patch"), baselines=("majority", "input"),
    ))  # fmt: skip
    assert len(rows) == 3 * 3 + 1
    for key, row in rows.items():
        if key == ("none", "majority"):
            assert value(row, "r2") <= 0
        else:
            assert value(row, "r2") > 0.5, key
            assert row["splits"]["test"]["chance"]["p"] < 0.01
            if not row["baseline"]:
                assert row["splits"]["test"]["versus"]["none/majority"]["low"] > 0


def test_layers_are_rows_of_their_own(ask):
    kinds = ("avg_patch@1", "avg_patch@2", "avg_patch")
    heads = ("logistic", "linear")
    rows = by_name(ask(unit="run", target="run:sex", representations=kinds, heads=heads))
    assert list(rows) == [(kind, head) for kind in kinds for head in heads]
    for head in heads:
        first, last, whole = (rows[kind, head] for kind in kinds)
        assert last["splits"] == whole["splits"] != first["splits"]
        assert value(first, "auroc") > 0.85


def test_embeddings_are_found_again(tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    rng = np.random.default_rng(5)
    embeddings_IxE = rng.normal(size=(12, 4)).astype(np.float32)
    np.save(tmp_path / "embeddings.npy", embeddings_IxE)
    quarter = (np.arange(64) // 16)[None]
    splits, shown = {}, {}
    for name, subjects in SUBJECTS.items():
        runs = []
        for i in subjects:
            images = rng.permutation(12)[:2]
            events = [{"onset": 16.0 * k, "nsd_id": int(n)} for k, n in enumerate(images)]
            signal = np.zeros((N_FRAMES, 1, 64))
            for k, image in enumerate(images):
                signal[16 * k : 16 * k + 16] = embeddings_IxE[image][quarter]
            runs.append((f"sub-{i:02d}", {"subject": f"{i:02d}", "events": events}, signal))
            shown.setdefault(name, set()).update(images.tolist())
        splits[name] = write_runs(tmp_path / name, runs, seed=len(subjects))
    config = functools.partial(
        probe_config, write_model(tmp_path / "model"), splits, task="regression",
        target=f"array:{tmp_path}/embeddings.npy:nsd_id", representations=("patch",),
        **GRID | {"baselines": ("majority",)},
    )  # fmt: skip
    results = probe(
        config(heads=("ridge", "attn"), grid__regression_loss="cosine"), tmp_path / "probe"
    )
    rows = by_name(results)
    for head, low in (("ridge", 0.8), ("attn", 0.4)):
        row = rows["patch", head]
        assert value(row, "cosine") > low and value(row, "top5") >= value(row, "top1")
        assert row["splits"]["test"]["chance"]["p"] < 0.01
        assert row["splits"]["test"]["versus"]["none/majority"]["low"] > 0
    assert value(rows["patch", "ridge"], "top1") > 0.6
    # Splits are shown some of the same images, and that is told.
    told = {(o["a"], o["b"]): o["shared"] for o in results["overlap"] if o["field"] == "nsd_id"}
    assert told == {(a, b): len(shown[a] & shown[b]) for a, b in combinations(SUBJECTS, 2)}
    assert min(told.values()) > 0
