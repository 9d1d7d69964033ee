"""Published weights into our model in memory, and back.

What is read: checkpoints of the newer release (`.pth`: weights and the settings of their training),
of the older one (`model.safetensors` with a `config.json`), and timm's Vision Transformers.
What is written is the older form, which both releases load; the config also lies in the header of
the weights, so that one rename publishes both.
"""

import contextlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_tools.errors import InputError, check_file
from data_tools.files.atomic import write_bytes
from data_tools.files.json_files import read_json
from data_tools.published.maps import read_geometry
from data_tools.published.torch_clips import to_numpy
from data_tools.safe_text import without_secrets
from fmrifm.model.files import ModelFiles, from_reference, is_model_directory, to_reference
from fmrifm.model.options import ModelOptions
from fmrifm.published.licenses import cached_origin, find_license, kept_license
from fmrifm.published.published_options import Recipe, flat_config, read_recipe
from fmrifm.published.space_geometry import space_geometry
from fmrifm.published.timm import is_timm, read_timm

PICKLES = (".pth", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *PICKLES)
CONFIG_KEY = "fmrifm_config"  # in the header of the weights


def is_published(path: str | os.PathLike) -> bool:
    """Whether this is a file of weights, or a directory of them that is not of our form."""
    path = Path(path)
    if path.is_file():
        return path.suffix in WEIGHT_SUFFIXES
    return (path / "model.safetensors").is_file() and not is_model_directory(path)


def check_num_heads(num_heads: int | None, options: ModelOptions, where: Path) -> None:
    """Raises InputError where a number of heads is given that the options contradict."""
    if num_heads not in (None, options.num_heads):
        raise InputError(
            f"{where} says that it has {options.num_heads} heads: leave out --num_heads."
        )


def load_published(
    path: str | os.PathLike,
    geometry: str | None = None,
    num_heads: int | None = None,
    name: str | None = None,
    folders: Sequence[Path] | None = None,
) -> ModelFiles:
    """Reads published weights; `geometry` and `num_heads` as of `open_model`.

    Args:
      path: a file of weights, or a directory that holds model.safetensors.
      name: where the weights come from; None takes it from the path.
      folders: where their licence may lie; None for the directory of the file.
    """
    path = Path(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    state, config = _read(weights)
    if geometry is None and weights.with_name("geometry.npz").is_file():
        geometry = str(weights.with_name("geometry.npz"))
    if is_timm(state):
        # Its config.json, if any, is of another form.
        frame = None if geometry is None else read_geometry(geometry).mask.shape
        options, state = read_timm(state, num_heads, frame, str(weights))
        preprocessing = {"normalize": "none", "no_coord_normalize": False, "clamp": None}
        recipe, config = Recipe(options, None, preprocessing), {}
    else:
        recipe = read_recipe(config, state, str(weights))
        options = recipe.options
        check_num_heads(num_heads, options, weights)
    try:
        params = from_reference(state, options)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    space = recipe.input_space
    clip = options.in_chans == 1 and options.num_frames is not None
    if space in (None, "flat"):  # the older release had no other; images are no maps
        space = "flat" if clip else None
    sources, text = _origin(weights, config, name, folders)
    return ModelFiles(
        options=options,
        params=params,
        geometry=space_geometry(
            config.get("space", space), options.frame_shape, options.patch_shape, geometry
        ),
        preprocessing=recipe.preprocessing,
        subjects_seen=config.get("subjects_seen", []),
        sources=sources,
        license=text,
    )


def _origin(
    weights: Path, config: dict, name: str | None, folders: Sequence[Path] | None
) -> tuple[list[dict], str]:
    """The sources of weights, and the text of their licence."""
    if name is None:
        name, folders = cached_origin(weights) or (None, None)
    name = name and without_secrets(name)
    license_path = weights.with_name("LICENSE.txt")
    if "sources" in config:  # we wrote it, and beside it only what we write is about the weights
        text = license_path.read_text("utf-8") if license_path.is_file() else ""
        if name is None:
            return config["sources"], kept_license(text, config["sources"])
        found, short = find_license(folders or [weights.parent], name)
        sources = [*config["sources"], {"name": name, "license": short}]
        return sources, kept_license(text, config["sources"], found)
    if name is None:
        alike = weights.name == "model.safetensors"  # as they are all called
        name = f"{weights.resolve().parent.name}/{weights.name}" if alike else weights.name
    text, short = find_license(folders or [weights.parent], name)
    if not text:
        print(
            f"No licence was found beside {weights}: ask its author; the published CortexMAE "
            "weights are under CC-BY-NC-4.0."
        )
    return [{"name": name, "license": short}], text


def save_published(path: str | os.PathLike, model: ModelFiles) -> None:
    """Writes weights under the published names, with config.json (and LICENSE.txt) beside them.

    Nothing in this form tells the mask of the geometry.

    Raises:
      InputError: a file beside them belongs to something else, or the published form cannot hold
        the model; nothing is written then.
    """
    path = Path(path)
    if model.options.network_maps:
        raise InputError("The published form has no network maps: keep the model directory.")
    space = model.geometry.space
    config = flat_config(
        model.options, "flat" if space.startswith("flat") else space, model.preprocessing
    )
    config |= {"space": space, "subjects_seen": model.subjects_seen, "sources": model.sources}
    text = json.dumps(config, indent=1, sort_keys=True)
    license_path, config_path = path.with_name("LICENSE.txt"), path.with_name("config.json")
    _check_free(config_path, text, path)
    if license_path.exists():
        if license_path.read_text("utf-8", errors="replace") != model.license:
            raise InputError(
                f"{license_path} is not the licence of these weights: choose another directory."
            )
    state = to_reference(model.params, model.options)
    data = safetensors.numpy.save(state, metadata={CONFIG_KEY: text})
    path.parent.mkdir(parents=True, exist_ok=True)
    if model.license:
        write_bytes(license_path, model.license.encode())
    # Whoever is killed after this leaves an older config.json, and the header is what counts.
    write_bytes(path, data)
    write_bytes(config_path, text.encode())


def _check_free(config_path: Path, text: str, weights: Path) -> None:
    """Raises InputError if a config.json is there that belongs to other weights."""
    if not config_path.exists():
        return
    try:
        old = config_path.read_text("utf-8")
        ours = old == text or (weights.exists() and "img_size" in json.loads(old))
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise InputError(
            f"{config_path} does not belong to {weights.name}: choose another directory."
        )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Tensors and config of a file of weights; the config is {} where there is none."""
    check_file(path)
    beside, config_path = None, path.with_name("config.json")
    if config_path.is_file():
        beside = read_json(config_path, "get it again")
    if path.suffix in PICKLES:
        state, config = _read_pickle(path)
    else:
        with _damage_named(path), safetensors.safe_open(path, "np") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            config = json.loads((file.metadata() or {}).get(CONFIG_KEY, "null"))
        if not isinstance(config, dict):
            config = None
        if config is not None and beside is not None and config != beside:
            print(f"{path} has its config inside; the config.json beside it differs and is left.")
    config = beside if config is None else config
    if config is None and not is_timm(state):
        raise InputError(f"{path} comes without its options: put its config.json beside it.")
    return state, config or {}


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): get it again.") from error


def _read_pickle(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """Tensors and settings of a checkpoint, through torch's weights-only loader: no code runs."""
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} can only be read with PyTorch: pip install 'fmrifm[torch]'."
        ) from error
    try:
        # Mapped, so that the optimizer's state beside the weights is never read.
        stored = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise InputError(f"{path} is damaged or no file of weights: get it again.") from error
        raise InputError(
            f"{path} holds Python code ({code[1]}) beside its weights, which is never run: ask its "
            "author for plain weights."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of the reader of zips, of pickles, and of torch
        if getattr(error, "filename", None):
            raise  # the file system says no
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends too soon"
        raise InputError(f"{path} is damaged ({reason}): get it again.") from error
    config: Any = None
    if isinstance(stored, dict):
        config = stored.get("args")
        stored = next((stored[k] for k in ("model", "state_dict") if k in stored), stored)
    if not isinstance(stored, dict) or not all(torch.is_tensor(x) for x in stored.values()):
        raise InputError(f"{path} holds no table of weights: give a checkpoint with a `model`.")
    state = {name: to_numpy(x, str(path)) for name, x in stored.items()}
    return state, config if isinstance(config, dict) else None
