"""A checkpoint as a model, and the facts on model, data and subjects that a checkpoint stores."""

import base64
import dataclasses
import os
import secrets
import zlib

import jax
import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.data import Data
from fmrifm.input.preprocess import CLAMP
from fmrifm.model.files import ModelFiles, bare_subject, hash_subject, read_options
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions
from fmrifm.runs.checkpoint import find_checkpoint, restore_meta, restore_params


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
    shapes = jax.tree.map(lambda x: x.update(sharding=device), param_shapes(options))
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


def origin_of(facts: dict) -> dict:
    """The origin of weights: subjects seen, published weights they descend from, their licence."""
    unknown = {"subjects_seen": [], "sources": [], "license": ""}
    return {name: facts.get(name, default) for name, default in unknown.items()}


def describe_model(options: ModelOptions, geometry: Geometry) -> dict:
    """Options and geometry (in the model's patches) as a checkpoint stores them, in JSON."""
    arrays = {name: _pack(getattr(geometry, name)) for name in ("picture", "columns")}
    arrays |= {"mask": _pack(np.packbits(geometry.mask)), "shape": geometry.mask.shape}
    if geometry.picture is not None:
        arrays["picture_shape"] = geometry.picture.shape
    return {
        "options": dataclasses.asdict(options),
        "geometry": dataclasses.asdict(geometry) | arrays,
    }


def model_of(meta: dict) -> tuple[ModelOptions, Geometry]:
    """The reverse of `describe_model`, from what lies beside a checkpoint."""
    geometry = dict(meta["model"]["geometry"])
    shape = geometry.pop("shape")
    bits = _unpack(geometry["mask"], np.uint8)
    geometry["mask"] = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape) == 1
    shapes = {"columns": shape, "picture": geometry.pop("picture_shape", None)}
    for name, size in shapes.items():
        if geometry.get(name) is not None:
            geometry[name] = _unpack(geometry[name], np.int32).reshape(size)
    for name in ("patch_shape", "bbox", "regions"):
        geometry[name] = tuple(geometry.get(name, ()))
    geometry = Geometry(**geometry)
    return read_options(meta["model"]["options"], geometry, "The checkpoint"), geometry


def describe_data(config: ConfigDict, data: Data) -> dict:
    """How users of the model must prepare clips, and how the training stores were prepared."""
    return {
        "normalize": config.data.normalize,
        "no_coord_normalize": config.data.no_coord_normalize,
        "clamp": CLAMP,
        "tr": data.train[0].store.tr,
        "stores": [source.store.preprocessing for source in data.train],
    }


def hashed_subjects(data: Data) -> dict:
    """The training subjects as salted hashes."""
    salt = secrets.token_hex(8)
    runs = (run for source in data.train for run in source.lines)
    names = {bare_subject(f"{run['dataset']}/{run['subject']}") for run in runs}
    return {"salt": salt, "hashes": sorted(hash_subject(salt, name) for name in names)}


def _pack(array: np.ndarray | None) -> str | None:
    return None if array is None else base64.b64encode(zlib.compress(array.tobytes())).decode()


def _unpack(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
