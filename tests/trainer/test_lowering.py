"""The training step lowers for every platform, so that a machine without one notices a break."""

import functools

import jax
import pytest

from fmrifm.input.data import open_data
from fmrifm.input.pipeline import batch_shapes
from fmrifm.model.mae import init_params
from fmrifm.trainer import program as experiment
from fmrifm.trainer.program import Program

# cuDNN attention lowers only where the CUDA plugin is: it is left to machines with a GPU.
CASES = [
    ("cpu", "xla"),
    ("cpu", "heads"),
    ("cpu", "blocked"),
    ("cuda", "xla"),
    ("cuda", "blocked"),
    ("tpu", "splash"),
]


@pytest.mark.parametrize("platform, form", CASES)
def test_the_step_lowers(toy_config, monkeypatch, platform, form):
    monkeypatch.setattr(experiment, "choose_form", lambda *_: form)
    config = toy_config(compute_dtype="bfloat16", model__remat="attention")
    program = Program(config, open_data(config).geometry, jax.devices()[:1])
    frames, rows = config.data.num_frames, config.batch_size
    batch = batch_shapes(program.geometry, frames, rows, with_scale=False)
    with program.scope():
        export = jax.export.export(program.train_step, platforms=(platform,))
        exported = export(program.abstract_state(), batch)
    assert exported.platforms == (platform,)
    assert ("tpu_custom_call" in exported.mlir_module()) == (form == "splash")


def test_all_programs_of_a_run_trace_with_kernels_on_a_mesh(toy_config, monkeypatch):
    """The first state and pictures have fewer clips than there are chips."""
    monkeypatch.setattr(experiment, "choose_form", lambda *_: "splash")
    config = toy_config(mesh__tensor=2, figures=1)
    data = open_data(config)
    program = Program(config, data.geometry, jax.devices()[:8])
    rows = config.batch_size
    batch = batch_shapes(program.geometry, config.data.num_frames, rows, with_scale=False)
    state = program.abstract_state()
    evaluate, reconstruct = program.eval_functions(program.make_task(data.geometry))
    with program.scope():
        init = functools.partial(init_params, program.model)
        assert jax.eval_shape(init, jax.random.key(0)).keys() == {"encoder", "decoder"}
        assert jax.eval_shape(program.train_step, state, batch)[1]["loss"].shape == ()
        assert jax.eval_shape(evaluate, state.params, batch).pixels.shape == ()
        assert len(jax.eval_shape(reconstruct, state.params, batch)["truth"].shape) == 4
