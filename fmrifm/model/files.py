"""The model directory: config.json, model.safetensors, geometry.npz, LICENSE.txt, checksums.json.

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
from flax.traverse_util import flatten_dict, unflatten_dict

from data_tools.errors import InputError, as_input_errors, check_file
from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.files.directory_sums import SUMS, find_damage, write_sums
from data_tools.spaces.geometry import Geometry, load_geometry
from data_tools.store.identity import bare_label
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import sincos_table

FORMAT_VERSION = 1
_FILES = ("config.json", "model.safetensors", "geometry.npz")


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

    @property
    def encoding_params(self) -> dict:
        """The parts of the parameters that embeddings depend on."""
        return {n: self.params[n] for n in ("encoder", "network_maps") if n in self.params}

    def with_params(self, params: dict) -> "ModelFiles":
        """The same model with fresh weights, which have seen nobody and descend from nothing."""
        return dataclasses.replace(
            self, params=params, subjects_seen=[], sources=[], license="", step=None
        )

    def has_seen(self, subject: str) -> bool:
        """Whether "dataset/subject" was in the training data of these weights."""
        return any(
            hash_subject(group["salt"], name) in group["hashes"]
            for group in self.subjects_seen
            for name in (subject, bare_subject(subject))  # the former by earlier versions
        )


def bare_subject(subject: str) -> str:
    """A "dataset/subject" without what the same person may lack elsewhere, such as zeros."""
    dataset, slash, label = subject.partition("/")
    return f"{dataset}{slash}{bare_label(label)}"


def hash_subject(salt: str, subject: str) -> str:
    """A subject as a salted hash: who knows "dataset/subject" can check it, nobody can list it."""
    return hashlib.sha256(f"{salt}/{subject}".encode()).hexdigest()[:32]


def to_reference(params: Mapping[str, Any], options: ModelOptions) -> dict[str, np.ndarray]:
    """Our tree -> {published name: array}; fixed position tables are written out."""
    state = {}
    for path, value in flatten_dict(params).items():
        value = np.asarray(value)
        if path[-1] == "kernel":
            value = np.swapaxes(value, -1, -2)
        layers = value if "layers" in path else [value]
        state.update(zip(_published_names(path, len(layers)), layers, strict=True))
    state.update(_fixed_tables(options))
    prefix = _prefix(options)
    return {name.removeprefix(prefix): np.ascontiguousarray(x) for name, x in state.items()}


def from_reference(state: Mapping[str, np.ndarray], options: ModelOptions) -> dict:
    """{published name: array} -> our tree, float32.

    Raises:
      InputError: a tensor is missing, left over, of another shape, or a position table that is
        fixed holds other values; names the first ones.
    """
    prefix, problems, tree = _prefix(options), [], {}
    left = {prefix + name: value for name, value in state.items()}

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        if name not in left:
            problems.append(f"{name.removeprefix(prefix)} is missing")
            return None
        value = np.asarray(left.pop(name), np.float32)
        if value.shape != shape:
            problems.append(f"{name.removeprefix(prefix)} has shape {value.shape}, not {shape}")
            return None
        return value

    for path, leaf in flatten_dict(param_shapes(options)).items():
        layers, *shape = leaf.shape if "layers" in path else (1, *leaf.shape)
        if path[-1] == "kernel":
            shape[-1], shape[-2] = shape[-2], shape[-1]
        values = [take(name, tuple(shape)) for name in _published_names(path, layers)]
        if problems:
            continue  # All of them are looked for, but nothing is returned.
        value = np.stack(values) if "layers" in path else values[0]
        if path[-1] == "kernel":
            value = np.swapaxes(value, -1, -2)
        tree[path] = np.ascontiguousarray(value)
    # Options that do not fit the weights may ask for tables larger than the memory.
    for name, table in ({} if problems else _fixed_tables(options)).items():
        value = take(name, table.shape)
        # Rounding differs between machines, in the last bit.
        if value is not None and not np.abs(value - table).max(initial=0) <= 1e-6:
            problems.append(f"{name.removeprefix(prefix)} is not the sincos table")
    problems += [f"{name.removeprefix(prefix)} is not part of this model" for name in left]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise InputError(f"The weights do not fit the model: {'; '.join(problems[:3])}{more}.")
    return unflatten_dict(tree)


def _published_names(path: tuple[str, ...], layers: int) -> list[str]:
    """The published name of a parameter of ours, or one a layer where it is of a stack."""
    *names, kind = path
    names.append("weight" if kind in ("kernel", "scale") else kind)
    if "layers" not in path:
        return [".".join(names)]
    place = path.index("layers")
    return [".".join([*names[:place], str(i), *names[place + 1 :]]) for i in range(layers)]


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
    config = {"format_version": FORMAT_VERSION, "model": dataclasses.asdict(model.options)}
    config |= {x: getattr(model, x) for x in ("preprocessing", "subjects_seen", "sources", "step")}
    with publish_directory(directory) as new:
        write_bytes(new / "config.json", json.dumps(config, indent=1, sort_keys=True).encode())
        weights = safetensors.numpy.save(to_reference(model.params, model.options))
        write_bytes(new / "model.safetensors", weights)
        write_bytes(new / "geometry.npz", model.geometry.to_bytes())
        if model.license:
            write_bytes(new / "LICENSE.txt", model.license.encode())
        write_sums(new, _FILES)


def is_model_directory(path: str | os.PathLike) -> bool:
    """Whether a directory is of our form, be it damaged, and not one of published weights."""
    path = Path(path)
    if not (path / "model.safetensors").is_file():
        return False
    try:
        return "format_version" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError, TypeError, RecursionError):
        return (path / "geometry.npz").is_file()


def load_model(directory: str | os.PathLike) -> ModelFiles:
    """Reads a model directory.

    Raises:
      InputError: a file is missing or damaged, weights and options do not fit, or a newer fmrifm
        has written an option that this one does not know.
    """
    directory = Path(directory)
    for name in _FILES:
        if not os.path.lexists(directory / name):
            raise InputError(f"{directory} is not a model directory: {name} is missing.")
        check_file(directory / name)
    _check_sums(directory)
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
        _check_facts(config)
        license = directory / "LICENSE.txt"
        return ModelFiles(
            options,
            from_reference(state, options),
            geometry,
            config["preprocessing"],
            config["subjects_seen"],
            sources=config.get("sources", []),
            step=config.get("step"),
            license=license.read_text("utf-8") if license.is_file() else "",
        )
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError),
        *(RecursionError, OSError, safetensors.SafetensorError),
    ) as error:
        raise InputError(f"{directory} is damaged ({error}): export the model again.") from error


def _check_facts(config: Mapping[str, Any]) -> None:
    """Raises ValueError where what is no option of the model is not of the form that we write."""
    seen, sources = config["subjects_seen"], config.get("sources", [])
    good = (
        isinstance(config["preprocessing"], dict)
        and isinstance(config.get("step"), int | None)
        and all(isinstance(x["salt"], str) and isinstance(x["hashes"], list) for x in seen)
        and all(
            isinstance(x["name"], str) and isinstance(x["license"], str | None) for x in sources
        )
    )
    if not good:
        raise ValueError("config.json has values of wrong kinds")


def _check_sums(directory: Path) -> None:
    """Refuses files that are not those which were saved; directories of 0.1.0 are not checked."""
    with as_input_errors():
        damage = find_damage(directory)
    if damage is not None:
        raise InputError(
            f"{directory / damage[0]} is damaged (it {damage[1]}): copy or export the model again, "
            f"or delete {directory / SUMS} if you changed it on purpose."
        )


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
