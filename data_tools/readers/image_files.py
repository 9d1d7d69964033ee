"""Opens images with nibabel, which takes as much memory as a header asks for.

Sizes in headers are compared with those of the files first.
"""

import gzip
import math
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

# Deflate makes at most 1,032 bytes of one.
_HIGHEST_RATIO = 1032
# Less is not worth a look: bytes, and their ratio to packed ones in images of brains.
_MUCH, _USUAL_RATIO = 2**28, 20
_BLOCK = 2**20


def load_image(path: str | os.PathLike, **options: Any) -> nibabel.filebasedimages.FileBasedImage:
    """Opens an image, as `nibabel.load` does, if the file has the data that its header describes.

    Raises:
      ValueError: it has not, or its header describes no data.
    """
    image = nibabel.load(path, **options)
    needed = described_bytes(image)
    held = Path(path).stat().st_size
    if Path(path).suffix.lower() in (".gz", ".mgz"):
        held = _unpacked(path, held, needed)
    check_held(needed, held)
    return image


def described_bytes(image: nibabel.filebasedimages.FileBasedImage) -> int:
    """Bytes up to the end of the data that the header of an image describes.

    Raises:
      ValueError: it describes no data.
    """
    proxy = getattr(image, "dataobj", None)
    if isinstance(proxy, np.ndarray) or not hasattr(proxy, "offset"):
        return 0
    if min(image.shape, default=0) < 1:
        raise ValueError("its header describes no data")
    return proxy.offset + math.prod(map(int, image.shape)) * proxy.dtype.itemsize


def check_held(needed: int, held: int) -> None:
    """Raises ValueError where more bytes are needed than are there at most."""
    if held < needed:
        raise ValueError(f"{needed:,} bytes are described and at most {held:,} are there")


def _unpacked(path: str | os.PathLike, packed: int, needed: int) -> int:
    """Upper bound on the unpacked size of a gzip file, in bytes.

    The bound follows from the best ratio of gzip. If the file needs an implausible ratio to hold
    the `needed` bytes, it is unpacked and counted up to these.
    """
    most = packed * _HIGHEST_RATIO
    if most < needed or needed < max(_MUCH, packed * _USUAL_RATIO):
        return most
    count = 0
    with gzip.open(path) as file:
        while count < needed and (block := file.read(_BLOCK)):
            count += len(block)
    return count
