"""What became of the runs of a conversion: converted, or skipped for a reason that is kept."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import tqdm

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory, write_bytes
from data_tools.store.json_text import parse_json
from data_tools.store.reader import SKIPPED, Store
from data_tools.store.writer import StoreWriter

# In place of a store: a shard in which no run could be converted.
EMPTY_SHARD = "shard.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run: converted, perhaps with a remark, or skipped for a reason.

    Attributes:
      key: of the run, or the name of the source that holds it.
      path: of its file, None where it would name a person.
      reason: why it was skipped.
      remark: what the user should know of a run that was converted.
    """

    key: str
    path: Path | None
    reason: str | None = None
    remark: str | None = None


def collect_skipped(outcomes: Generator[Outcome], stop: bool = False) -> tuple[list[Outcome], int]:
    """Does work on runs and prints what became of each as soon as it is known.

    Args:
      outcomes: of the runs, as the work goes on.
      stop: whether the first run that is skipped ends the work: it is an error then, not printed.

    Returns:
      The runs that were skipped, in the order of their keys and paths, and the number of others.
    """
    skipped, n_good = [], 0
    with contextlib.closing(outcomes):
        for outcome in outcomes:
            if outcome.remark:
                tqdm.tqdm.write(f"{outcome.key}: {outcome.remark}", file=sys.stderr)
            if outcome.reason is None:
                n_good += 1
                continue
            skipped.append(outcome)
            if stop:
                break
            tqdm.tqdm.write(f"skipped {outcome.key}: {outcome.reason}", file=sys.stderr)
    return sorted(skipped, key=lambda outcome: (outcome.key, str(outcome.path))), n_good


def skipped_lines(skipped: Sequence[Outcome], root: Path | None = None) -> bytes:
    """The bytes of `skipped.jsonl`: key, path and reason of each run, in the order of runs.

    Paths are given below `root`, a directory that holds them all, also in reasons; None leaves
    them.
    """

    def below(text: str) -> str:
        return text if root is None else text.replace(f"{root}{os.sep}", "")

    lines = (
        {
            "key": outcome.key,
            "path": None if outcome.path is None else below(str(outcome.path)),
            "reason": below(outcome.reason),
        }
        for outcome in skipped
    )
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def finish_store(writer: StoreWriter, skipped: bytes) -> Store:
    """Lays a store out, with a progress bar, and with the list of skipped runs, if any."""
    with tqdm.tqdm(desc="lay out", unit="frame", leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return writer.finish(show, {SKIPPED: skipped} if skipped else {})


def print_store(store: Store, n_skipped: int, skipped: str = "Runs skipped") -> None:
    """Prints what a new store holds, and how much was skipped on the way."""
    print(
        f"{store.path}: {store.meta['n_frames']:,} frames of {store.tr:g} s, "
        f"{store.geometry.n_patches} patches, runs: {len(store.runs)}"
    )
    if n_shifted := sum("start_time" in run for run in store.runs):
        print(f"Runs with events moved to the times of their frames (start_time): {n_shifted}")
    if n_skipped:
        print(f"{skipped}: {n_skipped}, see {store.path / SKIPPED}")


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
