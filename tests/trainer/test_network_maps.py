"""Network maps: the model begins with the linear predictor, whose maps nothing moves."""

import dataclasses

import jax
import numpy as np
import pytest

import fmrifm
from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.model.network_maps import maps_on
from fmrifm.probe.features.baselines import untrained
from fmrifm.published.weights import save_published
from fmrifm.trainer.linear_fit import LinearFit, linear_sums
from fmrifm.trainer.loop import train
from fmrifm.trainer.mesh import to_devices
from fmrifm.trainer.program import Program
from tests.conftest import write_toy_store
from tests.trainer.commands import metrics

RANK = 6
MAPS = {"model__network_maps": RANK, "model__head_init_scale": 0.0}


def begin(config, devices):
    """A program, its data, and the state that a run begins with."""
    data = open_data(config)
    program = Program(config, data.geometry, devices)
    maps = LinearFit(program, data).network_maps()
    return program, data, program.with_network_maps(program.initial_state(config.seed), maps)


@pytest.mark.parametrize("masking", ["tube", "random"])
def test_it_begins_with_the_linear_predictor(toy_config, tmp_path, masking):
    """In a run with missing pixels; and its maps are the first components of training frames."""
    store = write_toy_store(tmp_path / "missing", seed=5, missing=np.arange(40, 52))
    config = toy_config(
        **MAPS, data__train=str(store), data__eval="", model__masking=masking, model__t_patch=2
    )
    program, data, state = begin(config, jax.devices()[:1])
    batch = program.eval_batches(data.train, data.geometry)[0]
    task, maps = program.task, state.params["network_maps"]
    outcome = jax.jit(task.evaluate)(state.params, batch)[-1].sums
    pixels, mask = task.masked(batch)
    choice = np.array([[RANK, maps["noise"][0]]], np.float32)
    linear = maps_on(maps, program.cut)
    expected = linear_sums(task.objective, {}, pixels, mask, batch["counted"], linear, choice)
    assert outcome.error == pytest.approx(float(expected.error[0]), rel=1e-5)
    assert outcome.error < outcome.power  # smooth noise: near pixels are alike
    assert outcome.pixels == expected.pixels[0]

    components = LinearFit(program, data).components
    found = program.cut.to_patches(np.asarray(maps["maps"])).reshape(RANK, -1)
    np.testing.assert_array_equal(found, components.maps_KxV[:RANK])


def test_frames_too_few_for_so_many_maps(toy_config, tmp_path):
    store = write_toy_store(tmp_path / "few", seed=5, subjects=1, frames=20)
    config = toy_config(**MAPS | {"model__network_maps": 32}, data__train=str(store), data__eval="")
    maps = begin(config, jax.devices()[:1])[2].params["network_maps"]["maps"]
    assert np.abs(maps[:8]).max((1, 2)).min() > 0 and not np.any(maps[8:])


def test_layouts_train_the_same(toy_config):
    """Eight devices, which split clips and parameters, take the steps of one.

    And draw a single clip, which they cannot split.
    """
    ends = []
    for devices, sizes in ((1, (1, 1, 1)), (8, (2, 2, 2))):
        mesh = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), sizes, strict=True))
        config = toy_config(**MAPS, **mesh, figures=1)
        program, data, state = begin(config, jax.devices()[:devices])
        before, batches = jax.device_get(state.params), program.train_batches(data)
        losses = []
        with program.scope():
            for step in range(3):
                batch = to_devices(batches[step], program.batch_sharding)
                state, found = program.train_step(state, batch)
                losses.append((float(found["loss"]), float(found["grad_norm"])))
            reconstruct = program.eval_functions(program.task)[1]
            drawn = reconstruct(state.params, to_devices(batches[0], program.batch_sharding))
        after = jax.device_get(state.params)
        jax.tree.map(np.testing.assert_array_equal, before["network_maps"], after["network_maps"])
        assert np.any(before["encoder"]["codes_embed"]["kernel"])  # a class token has its clip
        assert losses[-1] != losses[0]
        ends.append((losses, np.nan_to_num(drawn["prediction"])))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=1e-4)
    assert len(ends[0][1]) == 1
    np.testing.assert_allclose(ends[1][1], ends[0][1], atol=1e-3)


def test_a_run_and_who_goes_on_from_it(toy_config, one_device, tmp_path):
    """Maps travel into checkpoints and models, and a warm start keeps them."""
    config = toy_config(**MAPS, total_steps=2)
    config.data.eval = f"held={config.data.train}"
    assert train(config, tmp_path / "a") == 0
    line = [x for x in metrics(tmp_path / "a") if "eval/held/loss" in x][-1]
    assert line["eval/held/loss"] < 0.95 * line["eval/held/loss_zero"]  # two steps teach nothing
    model = fmrifm.from_pretrained(str(tmp_path / "a" / "model"))
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(2, 1, 16, *model.geometry.mask.shape)).astype(np.float32)
    loss, out = model.forward(clips)
    assert np.isfinite(loss) and out["preds"].any()
    embeddings = model.encode(clips)
    assert np.abs(embeddings[0][0] - embeddings[0][1]).max() > 1e-3

    fresh = untrained(model, seed=1)
    given = model.params["network_maps"]
    jax.tree.map(np.testing.assert_array_equal, given, fresh.params["network_maps"])
    assert fresh.subjects_seen == model.subjects_seen
    loose = np.zeros_like(given["maps"])
    blank = dataclasses.replace(
        model, params=model.params | {"network_maps": given | {"maps": loose}}
    )
    assert np.abs(blank.encode(clips)[0] - embeddings[0]).max() > 1e-3  # so features change
    assert {*model.encoding_params} == {"encoder", "network_maps"}

    with pytest.raises(InputError, match="published form has no network maps"):
        save_published(tmp_path / "published.safetensors", model)

    # Other data would have other maps.
    other = toy_config(**MAPS, total_steps=1, init_from=str(tmp_path / "a" / "model"))
    other.data.train = str(write_toy_store(tmp_path / "other", seed=9))
    assert train(other, tmp_path / "b") == 0
    again = fmrifm.from_pretrained(str(tmp_path / "b" / "model"))
    jax.tree.map(
        np.testing.assert_array_equal, model.params["network_maps"], again.params["network_maps"]
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model__target_norm": "frame"}, "target_norm='none'"),
        ({"model__class_token": False}, "class_token"),
        ({"model__network_maps": -1}, "network_maps=-1"),
        ({"augment__crop_scale": 0.5}, "crop_scale=1"),
    ],
)
def test_what_does_not_go_together(toy_config, changes, told):
    config = toy_config(**MAPS | changes)
    with pytest.raises(InputError, match=told):
        Program(config, open_data(config).geometry)
