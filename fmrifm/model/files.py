"""The model directory: config.json, model.safetensors, geometry.npz, LICENSE.txt.

Weights carry the published names and layout (Linear weights are (out, in), one set a block), so
that they open anywhere; ours are a tree with the blocks of a stack on one leading axis. The
translation is mechanical and exact both ways.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.spaces.geometry import Geometry, load_geometry
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import sincos_table

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model directory in memory: options, weights (our tree), geometry, and what else it says.

    Attributes:
      preprocessing: how clips were prepared: `normalize`, `clamp`, `tr`, and what else is known.
      subjects_seen: groups of salted hashes, see `has_seen`.
      sources: published weights that these descend from, {"name": ..., "license": id or None} each.
      license: text that goes wherever the weights go; "" where there is none.
      step: of the run that they come from; None where there was none of ours.
    """

    options: ModelOptions
    params: dict
    geometry: Geometry
    preprocessing: dict
    subjects_seen: list[dict]
    sources: list[dict] = dataclasses.field(default_factory=list)
    license: str = ""
    step: int | None = None

    def with_params(self, params: dict) -> "ModelFiles":
        """The same model with fresh weights, which have seen nobody and descend from nothing."""
        return dataclasses.replace(
            self, params=params, subjects_seen=[], sources=[], license="", step=None
        )

    def has_seen(self, subject: str) -> bool:
        """Whether "dataset/subject" was in the training data of these weights."""
        return any(
            hash_subject(group["salt"], subject) in group["hashes"] for group in self.subjects_seen
        )


def hash_subject(salt: str, subject: str) -> str:
    """A subject as a salted hash: who knows "dataset/subject" can check it, nobody can list it."""
    return hashlib.sha256(f"{salt}/{subject}".encode()).hexdigest()[:32]


def to_reference(params: Mapping[str, Any], options: ModelOptions) -> dict[str, np.ndarray]:
    """Our tree -> {published name: array}; fixed position tables are written out."""
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
    state.update(_fixed_tables(options))
    prefix = _prefix(options)
    return {name.removeprefix(prefix): np.ascontiguousarray(x) for name, x in state.items()}


def from_reference(state: Mapping[str, np.ndarray], options: ModelOptions) -> dict:
    """{published name: array} -> our tree, float32.

    Raises:
      InputError: a tensor is missing, left over, of another shape, or a position table that is
        fixed holds other values; names the first ones.
    """
    left = {_prefix(options) + name: value for name, value in state.items()}
    problems = []

    def take(name, shape):
        told = name.removeprefix(_prefix(options))
        if name not in left:
            problems.append(f"{told} is missing")
            return np.zeros(shape, np.float32)
        value = np.asarray(left.pop(name), np.float32)
        if value.shape != tuple(shape):
            problems.append(f"{told} has shape {value.shape}, not {tuple(shape)}")
            return np.zeros(shape, np.float32)
        return value

    tree: dict = {}
    for path, leaf in _leaves(param_shapes(options)):
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
    for name, table in _fixed_tables(options).items():
        if name in left and np.shape(left[name]) == table.shape:
            # Rounding differs between machines, in the last bit.
            if not np.abs(np.asarray(left[name], np.float32) - table).max(initial=0) <= 1e-6:
                problems.append(f"{name.removeprefix(_prefix(options))} is not the sincos table")
        take(name, table.shape)
    problems += [
        f"{name.removeprefix(_prefix(options))} is not part of this model" for name in left
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"The weights do not fit the model: {'; '.join(problems[:3])}{more}.")
    return tree


def _prefix(options: ModelOptions) -> str:
    """What our names begin with and the published ones of an encoder alone do not."""
    return "encoder." if options.decoding == "none" else ""


def _fixed_tables(options: ModelOptions) -> dict[str, np.ndarray]:
    """The position tables that we compute and the published form stores."""
    if options.pos_embed != "sincos":
        return {}
    tables = {"encoder.pos_embed.weight": sincos_table(options, options.embed_dim)}
    if options.decoding != "none":
        tables["decoder.pos_embed.weight"] = sincos_table(options, options.decoder_embed_dim)
    return tables


def save_model(directory: str | os.PathLike, model: ModelFiles) -> None:
    """Writes a model directory atomically, replacing an older one."""
    config = {
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model.options),
        "preprocessing": model.preprocessing,
        "subjects_seen": model.subjects_seen,
        "sources": model.sources,
        "step": model.step,
    }
    with publish_directory(directory) as new:
        write_bytes(new / "config.json", json.dumps(config, indent=1, sort_keys=True).encode())
        weights = safetensors.numpy.save(to_reference(model.params, model.options))
        write_bytes(new / "model.safetensors", weights)
        write_bytes(new / "geometry.npz", model.geometry.to_bytes())
        if model.license:
            write_bytes(new / "LICENSE.txt", model.license.encode())


def is_model_directory(path: str | os.PathLike) -> bool:
    """Whether a directory is of our form, be it damaged, and not one of published weights."""
    path = Path(path)
    if not (path / "model.safetensors").is_file():
        return False
    try:
        return "format_version" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return (path / "geometry.npz").is_file()


def load_model(directory: str | os.PathLike) -> ModelFiles:
    """Reads a model directory.

    Raises:
      InputError: a file is missing or damaged, weights and options do not fit, or a newer fmrifm
        has written an option that this one does not know.
    """
    directory = Path(directory)
    for name in ("config.json", "model.safetensors", "geometry.npz"):
        if not (directory / name).is_file():
            raise InputError(f"{directory} is not a model directory: {name} is missing.")
    geometry = load_geometry(directory / "geometry.npz")
    try:
        config = json.loads((directory / "config.json").read_text())
        version = config["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{directory} has format version {version}, this program reads {FORMAT_VERSION}: "
                "update fmrifm."
            )
        options = read_options(config["model"], geometry, str(directory / "config.json"))
        state = safetensors.numpy.load_file(directory / "model.safetensors")
        if _is_first_version(config["model"]):
            state = {**_fixed_tables(options), **state}
        told = {name: config[name] for name in ("preprocessing", "subjects_seen")}
        license = directory / "LICENSE.txt"
        return ModelFiles(
            options,
            from_reference(state, options),
            geometry,
            **told,
            sources=config.get("sources", []),
            step=config.get("step"),
            license=license.read_text("utf-8") if license.is_file() else "",
        )
    except (KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{directory} is damaged ({error}): export the model again.") from error


def _is_first_version(options: Mapping[str, Any]) -> bool:
    """Whether options are of 0.1.0, which had square patches and stored no fixed tables."""
    return "patch_shape" not in options


def read_options(values: Mapping[str, Any], geometry: Geometry, where: str) -> ModelOptions:
    """Options as JSON has them, lists for tuples; what is not there has its default.

    Raises:
      InputError: an option that this program does not know, or a geometry of other patches;
        `where` names the file.
    """
    values = dict(values)
    if _is_first_version(values):  # of before patches could be oblong
        values.pop("patch_dim")
        values["patch_shape"] = geometry.patch_shape
        if values["pos_embed"] == "sincos" and values["num_frames"] == values["t_patch"]:
            raise InputError(
                f"{where} is of version 0.1.0, whose sincos positions of clips with one time slot "
                "were not the published ones: train the model again."
            )
    unknown = sorted(values.keys() - ModelOptions.__dataclass_fields__.keys())
    if unknown:
        raise InputError(
            f"{where} has the model option{'s' * (len(unknown) > 1)} {', '.join(unknown)}, which "
            "this program does not know: update fmrifm."
        )
    options = ModelOptions(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    )
    if (options.grid, options.patch_shape) != (geometry.grid, geometry.patch_shape):
        raise InputError(
            f"{where} has a grid of {options.grid} patches of {options.patch_shape} pixels, its "
            f"geometry {geometry.grid} of {geometry.patch_shape}: export the model again."
        )
    return options


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
