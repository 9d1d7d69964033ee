"""What became of the runs of a conversion: converted, or skipped for a reason that is kept."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.store.reader import SKIPPED, parse_json

# In place of a store: a shard in which no run could be converted.
EMPTY_SHARD = "shard.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: converted, perhaps with a remark, or skipped for a reason."""

    key: str
    path: Path
    reason: str | None = None
    remark: str | None = None


def skipped_lines(
    skipped: Sequence[Outcome], root: Path | None = None, with_paths: bool = True
) -> bytes:
    """The bytes of `skipped.jsonl`: key, path and reason of each run.

    Args:
      skipped: the runs, in the order of the lines.
      root: a directory that holds them all; paths are given below it, also in reasons. None
        leaves them as they are.
      with_paths: whether paths may be told.
    """
    lines = (
        {
            "key": outcome.key,
            "path": _below(str(outcome.path), root) if with_paths else None,
            "reason": _below(outcome.reason, root),
        }
        for outcome in skipped
    )
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def _below(text: str, root: Path | None) -> str:
    return text if root is None else text.replace(f"{root}{os.sep}", "")


def publish_empty_shard(output: Path, shard: tuple[int, int], skipped: bytes) -> None:
    """Leaves, in place of a store, what `merge` needs to know of a shard without a good run."""
    if output.exists():
        raise InputError(f"{output} exists already: choose another path.")
    with publish_directory(output) as directory:
        write_bytes(directory / SKIPPED, skipped)
        write_bytes(directory / EMPTY_SHARD, json.dumps({"shard": shard}).encode())


def read_empty_shard(path: Path) -> tuple[int, int] | None:
    """Which shard without a good run a directory stands for; None if it is something else."""
    file = path / EMPTY_SHARD
    if not file.is_file():
        return None
    shard = parse_json(file.read_bytes(), file).get("shard")
    if not (isinstance(shard, list) and len(shard) == 2 and all(type(n) is int for n in shard)):
        raise InputError(f"{file} is damaged: convert the shard again.")
    return shard[0], shard[1]


def remove_empty_shard(path: Path) -> None:
    """Clears away what an earlier attempt at a shard left, if it had no good run."""
    if read_empty_shard(path) is not None:
        shutil.rmtree(path)
