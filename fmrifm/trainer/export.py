"""A checkpoint as a model: what a run has learned so far, without the run."""

import os

import jax

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import param_shapes
from fmrifm.trainer.checkpoint import find_checkpoint, restore_meta, restore_params
from fmrifm.trainer.origin import model_of, origin_of


def export_checkpoint(path: str | os.PathLike) -> ModelFiles:
    """The model of a checkpoint: a workdir (its newest), its checkpoints/, or one step in it.

    Raises:
      InputError: no checkpoint there, or a damaged one.
    """
    found = find_checkpoint(path)
    if found is None:
        raise InputError(f"{path} holds no checkpoint: check the path.")
    # Once: a run that is saving may have a newer one by the time of the weights.
    directory, step = found
    path = directory / str(step)
    meta = restore_meta(path)
    options, geometry = model_of(meta)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), param_shapes(options)
    )
    # Runs of earlier versions tell less.
    known = {"normalize": meta["config"]["data"]["normalize"]}
    return ModelFiles(
        options=options,
        params=jax.device_get(restore_params(path, shapes)),
        geometry=geometry,
        preprocessing=meta.get("preprocessing", known),
        **origin_of(meta),
        step=step,
    )
