"""The model directory: config.json, model.safetensors, geometry.npz.

Weights carry the published names and layout (Linear weights are (out, in), one set a block), so
that they open anywhere; ours are a tree with the blocks of a stack on one leading axis. The
translation is mechanical and exact both ways.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_tools.errors import InputError
from data_tools.files import publish_directory, write_bytes
from data_tools.geometry import Geometry, load_geometry
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model directory in memory: options, weights (our tree), geometry, and what else it says."""

    options: ModelOptions
    params: dict
    geometry: Geometry
    preprocessing: dict
    subjects_seen: list[dict]

    def with_params(self, params: dict) -> "ModelFiles":
        """The same model with other weights."""
        return dataclasses.replace(self, params=params, subjects_seen=[])

    def has_seen(self, subject: str) -> bool:
        """Whether "dataset/subject" was in the training data of these weights."""
        return any(
            hash_subject(group["salt"], subject) in group["hashes"] for group in self.subjects_seen
        )


def hash_subject(salt: str, subject: str) -> str:
    """A subject as a salted hash: who knows "dataset/subject" can check it, nobody can list it."""
    return hashlib.sha256(f"{salt}/{subject}".encode()).hexdigest()[:32]


def to_reference(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our tree -> {published name: array}."""
    state = {}
    for path, value in _leaves(params):
        value = np.asarray(value)
        *names, kind = path
        if kind == "kernel":
            value, kind = np.swapaxes(value, -1, -2), "weight"
        elif kind == "scale":
            kind = "weight"
        if "layers" in names:
            place = names.index("layers")
            for i, layer in enumerate(value):
                state[".".join([*names[:place], str(i), *names[place + 1 :], kind])] = layer
        else:
            state[".".join([*names, kind])] = value
    return {name: np.ascontiguousarray(value) for name, value in state.items()}


def from_reference(state: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict:
    """{published name: array} -> a tree of the form of `like` (arrays or shapes).

    Raises:
      InputError: a tensor is missing, left over, or of another shape; names the first ones.
    """
    left = dict(state)
    problems = []

    def take(name, shape):
        if name not in left:
            problems.append(f"{name} is missing")
            return np.zeros(shape, np.float32)
        value = np.asarray(left.pop(name), np.float32)
        if value.shape != tuple(shape):
            problems.append(f"{name} has shape {value.shape}, not {tuple(shape)}")
            return np.zeros(shape, np.float32)
        return value

    tree: dict = {}
    for path, leaf in _leaves(like):
        *names, kind = path
        shape = list(leaf.shape)
        if kind == "kernel":
            shape[-1], shape[-2] = shape[-2], shape[-1]
        stored_kind = "weight" if kind in ("kernel", "scale") else kind
        if "layers" in names:
            place = names.index("layers")
            value = np.stack(
                [
                    take(
                        ".".join([*names[:place], str(i), *names[place + 1 :], stored_kind]),
                        shape[1:],
                    )
                    for i in range(shape[0])
                ]
            )
        else:
            value = take(".".join([*names, stored_kind]), shape)
        if kind == "kernel":
            value = np.swapaxes(value, -1, -2)
        node = tree
        for name in names:
            node = node.setdefault(name, {})
        node[kind] = np.ascontiguousarray(value)
    problems += [f"{name} is not part of this model" for name in left]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"The weights do not fit the model: {'; '.join(problems[:3])}{more}.")
    return tree


def save_model(directory: str | os.PathLike, model: ModelFiles) -> None:
    """Writes a model directory atomically, replacing an older one."""
    options = dataclasses.asdict(model.options)
    config = {
        "format_version": FORMAT_VERSION,
        "model": options,
        "preprocessing": model.preprocessing,
        "subjects_seen": model.subjects_seen,
    }
    with publish_directory(directory) as new:
        write_bytes(new / "config.json", json.dumps(config, indent=1, sort_keys=True).encode())
        weights = safetensors.numpy.save(to_reference(model.params))
        write_bytes(new / "model.safetensors", weights)
        write_bytes(new / "geometry.npz", model.geometry.to_bytes())


def is_model_directory(path: str | os.PathLike) -> bool:
    return (Path(path) / "model.safetensors").is_file()


def load_model(directory: str | os.PathLike) -> ModelFiles:
    """Reads a model directory.

    Raises:
      InputError: a file is missing or damaged, or weights and options do not fit.
    """
    directory = Path(directory)
    for name in ("config.json", "model.safetensors", "geometry.npz"):
        if not (directory / name).is_file():
            raise InputError(f"{directory} is not a model directory: {name} is missing.")
    try:
        config = json.loads((directory / "config.json").read_text())
        version = config["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{directory} has format version {version}, this program reads {FORMAT_VERSION}: "
                "update fmrifm."
            )
        options = ModelOptions(**{**config["model"], "grid": tuple(config["model"]["grid"])})
        state = safetensors.numpy.load_file(directory / "model.safetensors")
    except (KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{directory} is damaged ({error}): export the model again.") from error
    return ModelFiles(
        options=options,
        params=from_reference(state, param_shapes(options)),
        geometry=load_geometry(directory / "geometry.npz"),
        preprocessing=config["preprocessing"],
        subjects_seen=config["subjects_seen"],
    )


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()):
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
