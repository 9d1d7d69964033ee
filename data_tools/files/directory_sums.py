"""Checksums of the files of a directory, which lie beside them in `checksums.json`.

{"sha256": {NAME: DIGEST}}, with names relative to the directory. Directories of earlier versions
have no such file, and their files are read without a check.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_tools.files.atomic import write_bytes

SUMS = "checksums.json"
_THREADS = 8  # SHA-256 of one file is slower than most disks; hashlib frees the other threads.


def file_sum(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, hexadecimal.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(directory: Path, names: Iterable[str]) -> None:
    """Publishes the checksums of these files of a directory."""
    names = sorted(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(lambda name: file_sum(directory / name), names)
        text = json.dumps({"sha256": dict(zip(names, sums, strict=True))}, indent=1)
    write_bytes(directory / SUMS, text.encode())


def find_damage(
    directory: Path, prefix: str = "", share: tuple[int, int] = (0, 1)
) -> tuple[str, str] | None:
    """The first file that is not as `write_sums` saw it.

    Args:
      prefix: only files whose names begin so are read; of all others only their presence counts.
      share: which of how many processes this is, each of which reads its part of the files.

    Returns:
      Its name and what is wrong with it, "is missing"; None if all files are whole, or where no
      checksums are kept.

    Raises:
      OSError: a file is there, but cannot be read.
    """
    try:
        sums = json.loads((directory / SUMS).read_bytes())["sha256"]
        names = sorted(sums)
        for name in names:
            if not (directory / name).is_file():
                return name, "is missing"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return SUMS, "cannot be read"
    names = [name for name in names if name.startswith(prefix)][share[0] :: share[1]]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: file_sum(directory / name), names)
        for name, digest in zip(names, found, strict=True):
            if digest != sums[name]:
                return name, "has changed since it was saved"
    return None
