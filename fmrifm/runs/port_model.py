"""Converts models between our form and the published one."""

import dataclasses
from pathlib import Path

import jax

from data_tools.errors import InputError
from data_tools.files.remote import is_url
from fmrifm.model.files import ModelFiles, is_model_directory, save_model
from fmrifm.model.options import ModelOptions
from fmrifm.published.open_model import open_model
from fmrifm.published.weights import is_published, save_published
from fmrifm.runs.checkpoint import as_path, find_checkpoint
from fmrifm.runs.export import export_checkpoint


def port(
    source: str, output: str, geometry: str | None = None, num_heads: int | None = None
) -> ModelFiles:
    """Converts a model.

    Args:
      source: see `open_model`; also a checkpoint: a workdir without model/, its checkpoints/, or
        one step in it.
      output: a .safetensors file, or a model directory that is new or replaced.

    Returns:
      What was written.

    Raises:
      InputError: the input is no model, or the output is something else; nothing is written then.
    """
    path, published = Path(output), output.endswith(".safetensors")
    _check_output(path, published)
    if _is_checkpoint(source):
        if geometry is not None or num_heads is not None:
            raise InputError(f"{source} has its geometry and options: leave out the other flags.")
        files = export_checkpoint(source)
    else:
        files = open_model(source, geometry, num_heads)
    if published:
        save_published(path, files)
    else:
        save_model(path, files)
    return files


def describe(files: ModelFiles) -> str:
    """One line: size, options that are not our defaults, licence."""
    options = files.options
    told = []
    for field in dataclasses.fields(ModelOptions):
        value = getattr(options, field.name)
        if value != field.default:
            text = "x".join(map(str, value)) if isinstance(value, tuple) else value
            told.append(f"{field.name}={text}")
    size = sum(x.size for x in jax.tree.leaves(files.params))
    names = dict.fromkeys(source["license"] or "unknown" for source in files.sources)
    licence = ", ".join(names) or ("see LICENSE.txt" if files.license else "none")
    return f"{size:,} parameters; {', '.join(told)}; licence: {licence}"


def _is_checkpoint(source: str) -> bool:
    """Whether a source means a checkpoint rather than a model that was exported."""
    if is_url(source):
        place = as_path(source)
        exported = any((p / "model.safetensors").is_file() for p in (place, place / "model"))
        return not exported and find_checkpoint(source) is not None
    path = Path(source)
    if not path.is_dir() or is_model_directory(path) or is_published(path):
        return False
    return not is_model_directory(path / "model") and find_checkpoint(path) is not None


def _check_output(path: Path, published: bool) -> None:
    """Raises InputError if something is there that is not to be replaced."""
    if published and path.is_dir():
        raise InputError(f"--output={path} is a directory: name a file in it.")
    if published or not path.exists() or is_model_directory(path):
        return
    if not path.is_dir():
        raise InputError(f"--output={path} is a file: a model is a directory, or a .safetensors.")
    if any(path.iterdir()):
        raise InputError(f"--output={path} holds something else than a model: give a new path.")
