"""How a run starts: checks on resuming, and warm starts from other weights."""

from collections.abc import Sequence

import jax
import numpy as np

from data_tools.errors import InputError
from data_tools.store.reader import Store
from fmrifm.input.likeness import find_other_settings, find_unlike
from fmrifm.input.sources import check_grid, mask_problem
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions
from fmrifm.published.open_model import open_model
from fmrifm.runs.checkpoint import (
    TrainState,
    check_shapes,
    find_checkpoint,
    restore_meta,
    restore_params,
)
from fmrifm.runs.export import model_of, origin_of
from fmrifm.trainer.mesh import replicated
from fmrifm.trainer.program import Program


def warm_start(
    program: Program, path: str, stores: Sequence[Store] = ()
) -> tuple[TrainState, dict]:
    """A fresh state around the weights of a checkpoint, or of anything that names a model.

    Args:
      path: a checkpoint or its workdir, or what `fmrifm.from_pretrained` takes.
      stores: to train on; in what they are unlike those of the model is printed.

    Returns:
      The state, and where those weights come from (see `origin_of`).
    """
    checkpoint = find_checkpoint(path)
    if checkpoint is None:
        try:
            files = open_model(path)
        except InputError as error:
            raise InputError(f"init_from: {error}") from error
        options, geometry, origin = files.options, files.geometry, origin_of(vars(files))
        trained = files.preprocessing
    else:
        meta = restore_meta(path)
        (options, geometry), origin = model_of(meta), origin_of(meta)
        trained = meta.get("preprocessing", {})
    check_grid(program.cut, geometry, "The training data", f"The model {path}")
    params = dict(files.params if checkpoint is None else _restore(program, path, options))
    given = params.pop("target_norm", {}).get("components")
    check_shapes(params, program.learned(program.shapes.params), path)
    if program.options.target_norm == "pca":
        params["target_norm"] = {"components": _components(program, given, path)}
    if jax.process_index() == 0:
        overlap = geometry.overlap(program.cut)
        print(f"Starting from {path}: its mask and that of the data overlap by {overlap:.1%}.")
        if problem := mask_problem(program.cut, geometry, "The training data"):
            print(f"NOTE: {problem}")
        here = vars(program.options)
        changes = [f"{n} {x} -> {here[n]}" for n, x in vars(options).items() if x != here[n]]
        if changes:
            print(f"Model options that change from there: {', '.join(changes)}.")
        for remark in find_unlike(stores, trained, path):
            print(remark)
        for remark in find_other_settings(program.config.data, trained, path):
            print(remark)
    return program.state_with_params(params), origin


def _restore(program: Program, path: str, options: ModelOptions) -> dict:
    """The parameters of a checkpoint, with the components that it may hold beside them."""
    wanted = program.learned(program.abstract_state().params)
    if options.target_norm == "pca":
        whole = replicated(program.mesh)
        given = param_shapes(options)["target_norm"]
        wanted["target_norm"] = jax.tree.map(lambda x: x.update(sharding=whole), given)
    return restore_params(path, wanted)


def _components(program: Program, given: np.ndarray | None, path: str) -> np.ndarray:
    """Those of the config, else those of the model that training starts from."""
    if program.components is not None:
        return program.components
    wanted = program.shapes.params["target_norm"]["components"].shape
    if given is None or given.shape != wanted:
        raise InputError(
            f"{path} does not hold {wanted[0]} components of {wanted[1]} x {wanted[2]} pixels for "
            "model.target_norm='pca': set model.pca_components."
        )
    return given
