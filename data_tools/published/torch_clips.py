"""Clips that the older release had extracted: a PyTorch file each, with the image and its label.

A file holds a dictionary: `__key__` of the run, `image` (16, H, W) with zeros off the mask, `start`
(frame), metadata of the run, the fields of the event that it belongs to, and `target`.
Letters in array names: T frames, H x W pixels, C valid pixels.
"""

import functools
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError
from data_tools.files.remote import base_name, is_url, open_binary
from data_tools.published.source import PublishedRun, Source
from data_tools.published.webdataset import FIELDS
from data_tools.spaces.geometry import Geometry
from data_tools.store.checks import RESERVED

_SUFFIX = ".pt"
_A_SOURCE = 500
# What tells of the run; everything else is of the event.
_OF_RUN = frozenset({"sub", "ses", "run", "mod", "task", "mag", "dir", "path"})
_STRUCTURE = RESERVED | {"__key__", "image", "start", "onset", "duration"}


def find_clips(places: Sequence[str]) -> list[str]:
    """The files of clips among places and in directories, sorted; none where these are shards."""
    found = {place: _files(place) for place in places}
    clips = sorted(file for files in found.values() for file in files)
    if empty := [place for place, files in found.items() if not files and Path(place).is_dir()]:
        raise InputError(
            f"{empty[0]} is a directory without clips (.pt): give its shards, such as "
            f"{empty[0]}/*.tar."
        )
    if clips and not all(found.values()):
        other = next(place for place, files in found.items() if not files)
        raise InputError(f"{other} holds no clips (.pt) and others do: import them apart.")
    return clips


def clip_sources(clips: Sequence[str], geometry: Geometry, tr: float) -> list[Source]:
    """Sources of some hundred clips each; pixels that are not of the geometry must be 0."""
    sources = []
    for first in range(0, len(clips), _A_SOURCE):
        part = list(clips[first : first + _A_SOURCE])
        name = f"{_short(part[0])} to {_short(part[-1])}"
        read = functools.partial(read_clips, part, geometry, tr)
        # A clip has no header that tells its size.
        scan = functools.partial(_scan, read)
        sources.append(Source(name, read, scan, is_local=False))
    return sources


def read_clips(
    files: Sequence[str], geometry: Geometry, tr: float
) -> Iterator[PublishedRun | Outcome]:
    """Yields each clip as a run of its own, with one event from its first frame to its last."""
    try:
        import torch
    except ImportError:
        raise InputError("Clips are PyTorch files: pip install 'fmrifm[torch]'.") from None
    for file in files:
        try:
            try:
                # Only tensors and plain values are read, whatever the file says.
                with open_binary(file) as opened:
                    data = io.BytesIO(opened.read())
                clip = torch.load(data, map_location="cpu", weights_only=True)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"{file} is damaged, or no file of tensors ({type(error).__name__}): get it "
                    "again."
                ) from error
            yield _run(clip, Path(file), geometry, tr)
        except InputError as error:
            yield Outcome(Path(file).stem, Path(file), str(error))


def to_numpy(tensor: Any, file: str) -> np.ndarray:
    """A tensor of a file as float32, a copy.

    Raises:
      InputError: it is sparse, say, or says that it is larger than what is stored of it.
    """
    try:
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("its values are said to repeat")
        return tensor.detach().float().numpy().copy()
    except (ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file} holds no plain tensor ({reason}): get it again.") from error


def _short(file: str) -> str:
    """The name of a file with that of its folder: folders of clips number them alike."""
    folder = file if is_url(file) else str(Path(file).absolute())
    return f"{base_name(folder.rpartition('/')[0])}/{base_name(file)}"


def _files(place: str) -> list[str]:
    path = Path(place)
    if path.is_dir():
        return [str(file) for file in path.glob(f"*{_SUFFIX}")]
    return [place] if path.suffix == _SUFFIX else []


def _run(clip: Any, file: Path, geometry: Geometry, tr: float) -> PublishedRun:
    if not isinstance(clip, dict) or not hasattr(clip.get("image"), "numpy"):
        raise InputError(f"{file} holds no clip, no dictionary with an image: get it again.")
    # Half precision of either kind fits in; `detach` takes what was saved amid a training.
    if not clip["image"].is_floating_point():
        raise InputError(f"{file} has an image of {clip['image'].dtype}: get it again.")
    image_TxHxW = to_numpy(clip["image"], str(file))
    if image_TxHxW.ndim != 3 or image_TxHxW.shape[1:] != geometry.mask.shape:
        raise InputError(
            f"{file} has an image of {image_TxHxW.shape} and the space '{geometry.space}' frames "
            f"of {geometry.mask.shape}: give --geometry of its own space."
        )
    if image_TxHxW[:, ~geometry.mask].any():
        raise InputError(
            f"{file} has values off the mask of '{geometry.space}': give --geometry of its own "
            "space."
        )
    scalars = {name: _scalar(value) for name, value in clip.items() if name not in _STRUCTURE}
    scalars = {name: value for name, value in scalars.items() if value is not None}
    start = _scalar(clip.get("start", 0))
    if not isinstance(start, int | float):
        raise InputError(f"{file} has no number as start: get it again.")
    about = {FIELDS.get(name, name): scalars.pop(name) for name in _OF_RUN & scalars.keys()}
    return PublishedRun(
        f"{_scalar(clip.get('__key__')) or 'clip'}_start-{int(start):05d}_{file.stem}",
        image_TxHxW[:, geometry.mask],
        tr,
        about | {"start": start} | scalars,
        [{"onset": 0.0, "duration": len(image_TxHxW) * tr} | scalars],
    )


def _scalar(value: Any) -> str | int | float | None:
    """A plain value of one element, None for anything else, NaN and infinity too."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float) else None


def _scan(read: Callable[[], Iterator[PublishedRun | Outcome]]) -> Iterator[tuple | Outcome]:
    for run in read():
        yield run if isinstance(run, Outcome) else (run.key, *run.bold_TxC.shape)
