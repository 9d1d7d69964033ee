"""Anything that names a trained model, opened."""

import contextlib
import dataclasses
import difflib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files.remote import file_system, is_url, remote_errors
from fmrifm.model.files import ModelFiles, is_model_directory, load_model
from fmrifm.published.hub import REGISTERED, download, parse_hub_id
from fmrifm.published.licenses import find_license, kept_license
from fmrifm.published.space_geometry import space_geometry
from fmrifm.published.weights import check_num_heads, is_published, load_published


def open_model(
    source: str | os.PathLike, geometry: str | None = None, num_heads: int | None = None
) -> ModelFiles:
    """Opens a model.

    Args:
      source: a model directory, or a pretrain workdir that has one (paths, or URLs such as
        gs://bucket/run); published weights (a .pth or .safetensors file, or the directory of a
        model.safetensors); a registered name such as "cortex_mae_flat"; or a hub id,
        owner/name[:sub/path][@revision]. What exists here wins.
      geometry: for weights that come without one, see `space_geometry`.
      num_heads: for timm weights, whose shapes do not tell it.

    Raises:
      InputError: none of these, or damaged.
    """
    if is_url(source):
        with _fetched(str(source)) as path:
            return _open_path(path, geometry, num_heads)
    path = Path(source)
    if path.exists():
        return _open_path(path, geometry, num_heads)
    hub_id = parse_hub_id(str(source))
    if hub_id is None:
        raise InputError(_unknown(str(source)))
    first = Path(path.parts[0])
    if str(source) == hub_id.repository and first.is_dir():  # nobody asked for the network
        raise InputError(
            f"{source} does not exist in {first}/: check the path, or give {source}@main for the "
            "model of that name on the Hugging Face hub."
        )
    place, folders = download(hub_id)
    ours = place.parent if place.name == "model.safetensors" else place
    if is_model_directory(ours):
        files = _load_ours(ours, geometry, num_heads)
        text, short = find_license(folders, str(hub_id))
        sources = [*files.sources, {"name": str(hub_id), "license": short}]
        text = kept_license(files.license, files.sources, text)
        return dataclasses.replace(files, sources=sources, license=text)
    return load_published(place, geometry, num_heads, str(hub_id), folders)


@contextlib.contextmanager
def _fetched(url: str) -> Iterator[Path]:
    """A copy of the model directory at a URL, or in the workdir there, while it is being read."""
    with tempfile.TemporaryDirectory() as folder:
        with remote_errors(url):
            files, root = file_system(url)
            root = root.rstrip("/")
            places = [p for p in (root, f"{root}/model") if files.isfile(f"{p}/model.safetensors")]
            if not places:
                raise InputError(
                    f"{url} is no model directory, and no workdir with a model/: check the URL; of "
                    f"a run that has not ended, `python -m fmrifm.port --input={url} --output=DIR` "
                    "makes one."
                )
            for file in files.ls(places[0], detail=False):
                files.get_file(file, str(Path(folder, file.rsplit("/", 1)[-1])))
        try:
            yield Path(folder)
        except InputError as error:
            raise InputError(str(error).replace(folder, url)) from error


def _open_path(path: Path, geometry: str | None, num_heads: int | None) -> ModelFiles:
    inside = [path.parent] if path.name == "model.safetensors" else []
    for directory in (path, path / "model", *inside):
        if is_model_directory(directory):
            files = _load_ours(directory, geometry, num_heads)
            newest = _newest_step(path / "checkpoints")
            if files.step is not None and newest is not None and newest > files.step:
                print(
                    f"Using the model of step {files.step} in {directory}; for the newest: "
                    f"`python -m fmrifm.port --input={path / 'checkpoints' / str(newest)} "
                    "--output=DIR`."
                )
            license = kept_license(files.license, files.sources)
            return dataclasses.replace(files, license=license)
    if is_published(path):
        return load_published(path, geometry, num_heads)
    checkpoints = path if path.name == "checkpoints" else path / "checkpoints"
    if (path / "state").is_dir() or _newest_step(checkpoints) is not None:
        raise InputError(
            f"{path} has checkpoints and no model/, as its run has not ended: export one with "
            f"`python -m fmrifm.port --input={path} --output=DIR`."
        )
    if checkpoints.is_dir():
        raise InputError(f"The run in {path} has not saved anything yet: wait for its first save.")
    raise InputError(_unknown(str(path)))


def _newest_step(checkpoints: Path) -> int | None:
    if not checkpoints.is_dir():
        return None
    return max((int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()), default=None)


def _load_ours(directory: Path, geometry: str | None, num_heads: int | None) -> ModelFiles:
    """A model directory, with another mask if one is given."""
    files = load_model(directory)
    check_num_heads(num_heads, files.options, directory)
    if geometry is None:
        return files
    old = files.geometry
    new = space_geometry(None, old.mask.shape, old.patch_shape, geometry)
    return dataclasses.replace(files, geometry=new)


def _unknown(source: str) -> str:
    guess = difflib.get_close_matches(source, REGISTERED, 1)
    return (
        f"{source!r} is no model{f' (did you mean {guess[0]}?)' if guess else ''}: give a model "
        "directory, a pretrain workdir, a .pth or .safetensors file or its directory, a registered "
        f"name ({next(iter(REGISTERED))} ...) or a hub id owner/name[:sub/path][@revision]."
    )
