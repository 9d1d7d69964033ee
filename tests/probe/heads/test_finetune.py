"""Fine-tuning: moves what it may, leaves what it must, and finds what is there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from data_tools.errors import InputError
from data_tools.store.writer import StoreWriter
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.probe.heads import finetune as module
from fmrifm.probe.heads.finetune import ShuffledBatches, finetune, init_trained
from fmrifm.probe.heads.lora import init_adapters, merge
from fmrifm.probe.heads.settings import FinetuneSettings, learning_rates
from fmrifm.probe.samples.labels import parse_target
from fmrifm.probe.samples.samples import make_samples
from tests.conftest import toy_geometry

# Five clips divide over one of the eight devices only: programs compile faster.
TARGET = parse_target("event:trial_type")
FAST = FinetuneSettings(
    lr=1e-3, batch_size=5, accumulation=2, epochs=2, steps_per_epoch=2, warmup_epochs=0
)


def make_files(**changes):
    """A small model with fresh weights."""
    geometry = toy_geometry()
    options = ModelOptions(
        grid=geometry.grid, patch_shape=(8, 8), num_frames=16, t_patch=8, embed_dim=32, depth=2,
        num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, **changes,
    )  # fmt: skip
    params = nn.unbox(init_params(MaskedAutoencoder(options), jax.random.key(0)))
    return ModelFiles(options, jax.device_get(params), geometry, {"normalize": "none"}, [])


@pytest.fixture(scope="module")
def files():
    return make_files()


def write_store(path, series_by_run):
    """A store of {subject: (frames, events)}; returns its sources."""
    geometry = toy_geometry()
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}) as writer:
        for subject, (series, events) in series_by_run.items():
            frames = geometry.to_patches((series * geometry.mask).astype(np.float16))
            writer.add(
                f"sub-{subject:02d}", frames, dataset="toy", subject=str(subject), events=events
            )
        writer.finish()
    return parse_sources(str(path))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clips of six, two and two subjects in which event b raises one hemisphere a little."""
    root = tmp_path_factory.mktemp("stores")
    groups = {"train": range(1, 7), "val": (7, 8), "test": (9, 10)}
    shape = toy_geometry().mask.shape

    def run(subject):
        events, series = [], np.random.default_rng(subject).normal(size=(200, *shape))
        for i in range(11):
            events.append({"onset": 18.0 * i, "duration": 16.0, "trial_type": "ab"[i % 2]})
            series[18 * i : 18 * i + 16, :, :32] += 0.3 * (i % 2)
        return series, events

    return {
        name: _labelled(write_store(root / name, {s: run(s) for s in subjects}))
        for name, subjects in groups.items()
    }


def _labelled(sources):
    samples = make_samples(sources, TARGET, unit="clip", num_frames=16)
    return sources, samples, (samples.labels == "b").astype(np.int64)


def tune(files, data, **changes):
    settings = dataclasses.replace(FAST, **changes)
    return finetune(files, data["train"], data["val"], settings=settings, seed=0)


def params_of(tuned):
    """The model's parameters with the encoder tuned, adapters merged in."""
    return module._assemble(tuned.files.params, tuned.trained.encoder, tuned.settings)


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def changed(before, after):
    """The paths of the encoder whose values differ; what is no encoder's must not."""
    before, after = flat(before), flat(after)
    return {path for path in after if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 3e-3},
        {"mode": "lora", "lr": 3e-3},
        {"head": "linear", "representation": "cls", "lr": 3e-3},
    ],
)
def test_an_effect_is_found_in_new_subjects(files, data, changes):
    steps = {"epochs": 6, "steps_per_epoch": 0, "warmup_epochs": 1, "batch_size": 7}
    tuned = tune(files, data, **steps, **changes)
    sources, samples, labels = data["test"]
    probabilities = tuned.predict(sources, samples)
    assert probabilities.shape == (22, 2) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert np.mean(probabilities.argmax(1) == labels) > 0.85
    # The parameters kept are those of the epoch chosen, the first of the best.
    sources, samples, labels = data["val"]
    score = np.mean(tuned.predict(sources, samples).argmax(1) == labels)
    assert score == tuned.scores.max() == tuned.scores[tuned.best_epoch]
    assert tuned.best_epoch == tuned.scores.argmax()


def test_values_are_predicted_in_their_own_units(files, data):
    def values(name):
        sources, samples, labels = data[name]
        return (
            sources,
            samples,
            np.stack([1000 + 50 * labels, 70 - 20 * labels], 1).astype(np.float32),
        )

    split = {name: values(name) for name in data}
    steps = {"epochs": 6, "steps_per_epoch": 0, "warmup_epochs": 1, "batch_size": 7}
    tuned = tune(files, split, lr=3e-3, **steps)
    sources, samples, labels = split["test"]
    predicted = tuned.predict(sources, samples)
    error = np.mean((predicted - labels) ** 2, 0)
    assert predicted.shape == (22, 2) and (error < 0.7 * labels.var(0)).all()
    assert (tuned.scores < 0).all() and tuned.scores.max() > -0.7 * labels.var(0).mean()


def test_frozen_parameters_stay_exactly(files, data):
    freeze = "patch_embed|norm|blocks/layers/mlp"
    tuned = tune(files, data, freeze=freeze)
    moved = changed(files.params, params_of(tuned))
    attention = {f"encoder/blocks/layers/attn/{name}/kernel" for name in ("q", "k", "v", "proj")}
    assert attention <= moved
    assert "encoder/cls_token" in moved
    assert not any(part in path for path in moved for part in freeze.split("|"))
    assert flat(params_of(tuned)).keys() == flat(files.params).keys()


def test_adapters_leave_the_weights_alone(files, data):
    before = jax.tree.map(np.array, files.params)
    tuned = tune(files, data, mode="lora", pattern="attn/(q|v)/")
    targets = {f"encoder/blocks/layers/attn/{name}/kernel" for name in "qv"}
    assert changed(before, files.params) == set()
    assert changed(files.params, params_of(tuned)) == targets == tuned.trained.encoder.keys()
    for adapter in tuned.trained.encoder.values():
        assert adapter["A"].shape == (2, 32, 8) and np.abs(adapter["B"]).max() > 0


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_delayed_encoder_waits_for_the_head(files, data, mode):
    waits = tune(files, data, mode=mode, delay_epochs=2)
    assert changed(files.params, params_of(waits)) == set()
    start, _ = init_trained(files, waits.settings, 2, seed=0)
    assert changed(start.head, waits.trained.head)


def test_parts_of_a_batch_add_up_to_it(files, data):
    """Also where rows do not count: 66 clips in updates of 40; on four devices and on one."""
    changes = {"mode": "lora", "head": "linear", "steps_per_epoch": 0, "epochs": 1}
    whole = tune(files, data, batch_size=20, accumulation=2, **changes)
    parts = tune(files, data, batch_size=5, accumulation=8, **changes)
    for a, b in zip(jax.tree.leaves(whole.trained), jax.tree.leaves(parts.trained), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_matrices_decay(files):
    trained, _ = init_trained(files, FAST, 2, seed=0)
    tx = module._optimizer(trained, 0.5)
    zero = jax.tree.map(jnp.zeros_like, trained)
    updates, _ = tx.update(zero, tx.init(trained), trained)
    for path, value in trained.encoder.items():
        expected = 0.5 * value if path.endswith("kernel") else 0 * value
        np.testing.assert_allclose(updates.encoder[path], expected)
    for value, update in zip(*map(jax.tree.leaves, (trained.head, updates.head)), strict=True):
        np.testing.assert_allclose(update, 0.5 * value * (value.ndim > 1))


def test_learning_rates_rise_and_fall():
    settings = dataclasses.replace(FAST, lr=2.0, epochs=4, warmup_epochs=2, delay_epochs=1)
    rates = learning_rates(settings, steps_per_epoch=2)
    head = 20 * np.array([0, 1 / 3, 2 / 3, 1, 1, 0.75, 0.25, 0])
    np.testing.assert_allclose(rates[:, 1], head, atol=1e-5)
    np.testing.assert_allclose(rates[:, 0], head / 10 * (np.arange(8) >= 2), atol=1e-6)


@pytest.mark.parametrize("steps", [0, 4])
def test_each_clip_comes_once_a_pass(steps):
    settings = dataclasses.replace(FAST, epochs=3, steps_per_epoch=steps)
    samples = np.zeros(23)
    batches = ShuffledBatches(None, samples, None, settings, seed=1)
    assert batches.steps_per_epoch == (steps or 3) and len(batches) == 3 * (steps or 3)
    index, counted = map(np.concatenate, zip(*map(batches.index, range(len(batches))), strict=True))
    seen = index[counted]
    assert len(seen) == (3 * 23 if steps == 0 else 120)
    first, second = seen[:23], seen[23:46]
    assert sorted(first) == sorted(second) == list(range(23)) and (first != second).any()
    other = ShuffledBatches(None, samples, None, settings, seed=2)
    assert (other.index(0)[0] != index[:10]).any()


def test_adapters_begin_without_effect_and_scale_with_alpha(files):
    params, key = files.params, jax.random.key(0)
    adapters = init_adapters(key, params, rank=3)
    kernels = {p for p in flat(params) if p.startswith("encoder/") and p.endswith("kernel")}
    assert adapters.keys() == kernels and len(kernels) == 7
    assert changed(params, merge(params, adapters, 16.0)) == set()
    path = "encoder/blocks/layers/mlp/fc2/kernel"
    a = np.asarray(adapters[path]["A"])
    assert a.shape == (2, 128, 3) and 0.9 < np.abs(a).max() * np.sqrt(128) <= 1
    assert not np.array_equal(a[0], a[1])
    adapters[path]["B"] = jnp.ones((2, 3, 32))
    merged = merge(params, adapters, 6.0)
    assert changed(params, merged) == {path}
    np.testing.assert_allclose(
        flat(merged)[path], flat(params)[path] + 2 * a @ np.ones((3, 32)), atol=1e-5
    )


def test_dropout_withholds_inputs_from_adapters(files):
    path = "encoder/blocks/layers/mlp/fc2/kernel"
    adapters = init_adapters(jax.random.key(0), files.params, 2, pattern="mlp/fc2")
    adapters[path]["B"] = jnp.ones((2, 2, 32))

    def added(key, dropout=0.25):
        merged = merge(files.params, adapters, 2.0, key, dropout)
        return flat(merged)[path] - flat(files.params)[path]

    whole, some = added(None), added(jax.random.key(1))
    dropped = np.all(np.asarray(some) == 0, axis=2)
    assert 0.1 < dropped.mean() < 0.4 and (dropped[0] != dropped[1]).any()
    np.testing.assert_allclose(some[~dropped], whole[~dropped] / 0.75, atol=1e-5)
    np.testing.assert_array_equal(added(jax.random.key(1), 0.0), whole)
    assert not np.array_equal(added(jax.random.key(2)), some)


def test_dropout_acts_in_training(files, data):
    some, none = (tune(files, data, mode="lora", epochs=1, dropout=p) for p in (0.5, 0.0))
    some, none = (flat(tuned.trained.encoder) for tuned in (some, none))
    assert any(np.abs(some[path] - none[path]).max() > 1e-5 for path in some)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"mode": "half"}, "mode='half' is unknown: choose one of full, lora"),
        ({"head": "mlp"}, "choose one of attn, linear"),
        ({"representation": "reg"}, "choose one of patch, cls"),
        ({"representation": "cls"}, "take representation=patch"),
        ({"mode": "lora", "freeze": "norm"}, "leave freeze empty"),
        ({"pattern": "attn"}, "set mode=lora"),
        ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "1 or more"),
        ({"warmup_epochs": 3}, "warmup_epochs=3 is not within finetune.epochs=2"),
        ({"mode": "lora", "rank": 0}, "rank=0"),
        ({"mode": "lora", "pattern": "conv"}, "pattern='conv' is found in no parameter"),
        ({"freeze": "("}, "freeze='\\(' is no regular expression"),
    ],
)
def test_settings_that_make_no_sense_are_told(files, changes, told):
    with pytest.raises(InputError, match=told):
        init_trained(files, dataclasses.replace(FAST, **changes), 2, seed=0)


def test_what_cannot_be_tuned_is_told(files, data):
    sources, samples, labels = data["train"]
    runs = make_samples(sources, parse_target("run:subject"), unit="run", num_frames=16)
    with pytest.raises(InputError, match="6 samples have 72 clips: set unit=clip"):
        tune(files, {**data, "train": (sources, runs, labels[:6])})
    short = dataclasses.replace(samples, n_frames_C=np.full(66, 15))
    with pytest.raises(InputError, match="Run sub-01 is shorter than a clip of 16 frames"):
        tune(files, {**data, "val": (sources, short, labels)})
    without = make_files(class_token=False)
    with pytest.raises(InputError, match="no class token: choose representation=patch"):
        tune(without, data, head="linear", representation="cls")
    with pytest.raises(InputError, match="diverged in every epoch: lower lr"):
        tune(files, data, lr=1e30)


def test_clips_are_played_backwards_where_samples_say_so(files, tmp_path):
    """Runs that rise: only the order of the frames tells the two directions apart."""
    rise, rng = np.linspace(-1, 1, 16)[:, None, None], np.random.default_rng(0)
    runs = {i: (rise + 0.3 * rng.normal(size=(16, 32, 64)), []) for i in range(8)}
    sources = write_store(tmp_path / "store", runs)
    samples = make_samples(sources, parse_target("time:arrow"), unit="clip", num_frames=16)
    labels = (samples.labels == "reversed").astype(np.int64)
    split = {"train": (sources, samples, labels), "val": (sources, samples, labels)}
    tuned = tune(files, split, lr=3e-3, epochs=4)
    assert tuned.scores.max() == 1
    forwards = dataclasses.replace(samples, reversed_C=None)
    assert (tuned.predict(sources, forwards).argmax(1) == 0).all()
