"""Reads members of zip archives in place, and refuses archives that are out to do harm.

Nothing is ever extracted by name. What is decompressed is bounded by what the archive declares, and
that by what a run can be.
"""

import io
import os
import re
import zipfile
from pathlib import Path

from data_tools.errors import InputError
from data_tools.surface_run import readable

# Far above a dense time series of an hour; deflate itself packs at most 1,032 bytes into one.
_LARGEST = 4 * 2**30
_HIGHEST_RATIO = 1000
_ENCRYPTED = 0x1
_BLOCK = 2**20


def read_member(path: str | os.PathLike, name: str, n_bytes: int | None = None) -> bytes:
    """The bytes of a file in an archive, or the first of them.

    Args:
      path: the archive.
      name: of the member.
      n_bytes: how many to read at most; None reads all and verifies their checksum.

    Raises:
      InputError: the archive is missing, truncated or no zip, has names that lead out of it, or
        the member is encrypted, damaged, or much larger than a run can be.
    """
    with readable(Path(path)), zipfile.ZipFile(path) as archive:
        _check_names(archive.namelist(), path)
        infos = [info for info in archive.infolist() if info.filename == name]
        if len(infos) != 1:
            count = f"{len(infos)} files" if infos else "no file"
            raise InputError(f"{path} holds {count} {name}: get it from its source again.")
        (info,) = infos
        _check_member(info, path)
        size = info.file_size if n_bytes is None else min(n_bytes, info.file_size)
        with archive.open(info) as member:
            data = io.BytesIO()
            # The last of these reads compares the checksum, where it comes to the end.
            while data.tell() < size and (block := member.read(min(_BLOCK, size - data.tell()))):
                data.write(block)
            return data.getvalue()


def _check_names(names: list[str], path: str | os.PathLike) -> None:
    for name in names:
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise InputError(
                f"{path} holds a file named {name!r}, which leads out of it: get the archive from "
                "its source again."
            )


def _check_member(info: zipfile.ZipInfo, path: str | os.PathLike) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise InputError(f"{path} is encrypted: decrypt it first.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{path} is packed by other means than deflate: unpack it and zip it again."
        )
    if info.file_size > _LARGEST or info.file_size > _HIGHEST_RATIO * max(1, info.compress_size):
        raise InputError(
            f"{path} declares {info.file_size:,} bytes for {info.filename}, packed in "
            f"{info.compress_size:,}, which no run has: get the archive from its source again."
        )
