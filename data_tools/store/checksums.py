"""Checksums of a store: of its small files when it is opened, of its arrays when they are read.

`STORE/checksums.json` holds the SHA-256 of the files that opening a store reads whole. Shards and
stats have a CRC-32 for each run in `runs.jsonl`. Stores of version 0.1 lack `checksums.json`.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from data_tools.files.directory_sums import SUMS as CHECKSUMS
from data_tools.store.json_text import parse_json, to_json

_COVERED = frozenset({"geometry.npz", "runs.jsonl", "store.json"})

_LOCK = threading.Lock()
_CHECKED: dict[Hashable, set[Hashable]] = {}  # by the state of a file
_UNDER_WAY: dict[Hashable, threading.Lock] = {}


def write_checksums(directory: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Publishes the checksums of files; by default of those that lie in the directory."""
    if files is None:
        paths = (path for path in directory.iterdir() if path.is_file())
        files = {x.name: x.read_bytes() for x in paths if x.name[0] != "." and x.name != CHECKSUMS}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_bytes(directory / CHECKSUMS, to_json({"sha256": sums}, "The checksums", 2))


def parse_checksums(
    data: bytes, where: str | Path, covered: Collection[str] = _COVERED
) -> dict[str, str]:
    """File name -> SHA-256, hexadecimal, from the bytes of a `checksums.json`.

    Raises:
      InputError: the file is damaged or does not list all that should be covered; `where` is its
        path or URL.
    """
    sums = parse_json(data, where).get("sha256")
    if not isinstance(sums, dict) or not sums.keys() >= set(covered):
        raise InputError(f"{where} is damaged (sha256): copy or make its store again.")
    return sums


def check_file_sum(data: bytes, sha256: str, store: str | Path, name: str) -> None:
    """Refuses the bytes of a file of a store that do not match the checksum."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(
            f"{store}/{name} does not match its checksum: copy or make its store again or, if you "
            f"changed it on purpose, run python -m data_tools.inspect {store} --update-checksums."
        )


def check_once(state: Hashable, part: Hashable, check: Callable[[], None]) -> None:
    """Calls `check` unless this part of a file passed it before in this process.

    Threads that need the same part wait for the one that checks it. Stores share what was checked:
    a training set is often an evaluation set, too.

    Args:
      state: of the file, which changes when its bytes do: see `ArrayFile.state`.
      part: of the file, with the checksum that it should have.
      check: raises an error where the part is damaged; then the next call checks it again.
    """
    if part in _CHECKED.get(state, ()):
        return
    with _LOCK:
        turn = _UNDER_WAY.setdefault((state, part), threading.Lock())
    with turn:
        if part not in _CHECKED.get(state, ()):
            check()
            with _LOCK:
                _CHECKED.setdefault(state, set()).add(part)
    with _LOCK:
        _UNDER_WAY.pop((state, part), None)
