"""Laying parts out as a store: which run goes into which shard, and doing it so that kills heal.

The layout is a directory that becomes the store by one rename. Its `runs.jsonl` is written first,
after its checksum, and is the plan; then come stats and shards, each published whole. A part is
deleted only once the shard with its frames is durable, so the disk needs room for the store and one
shard. From this it follows that every planned run is in its shard or in its part, whenever the job
was killed. What an earlier job laid out is compared with its checksums before the store is
published.
"""

import itertools
import operator
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import fsync_directory, write_bytes
from data_tools.files.npy import ArrayFile, as_bytes, publish_array
from data_tools.store.checksums import CHECKSUMS, check_file_sum, parse_checksums, write_checksums
from data_tools.store.description import FRAME_DTYPE, SCALE_DTYPE, parse_run_lines
from data_tools.store.json_text import to_json
from data_tools.store.parts import Parts
from data_tools.store.reader import scale_checksum

PLACE = ("shard", "first_frame")


def plan_runs(
    lines: Iterable[dict[str, Any]], frame_bytes: int, shard_bytes: int
) -> list[dict[str, Any]]:
    """Gives every run its place: key order, shards filled up, no run across two shards.

    A run of more than `shard_bytes` has a shard for itself. The checksum of the scale stays in the
    lines only where all runs have one, which tells that the store has stats.
    """
    lines = sorted(lines, key=lambda line: line["key"])
    dropped = set() if all("scale_crc32" in line for line in lines) else {"scale_crc32"}
    plan, shard, frame = [], 0, 0
    for line in lines:
        if frame and (frame + line["n_frames"]) * frame_bytes > shard_bytes:
            shard, frame = shard + 1, 0
        kept = {name: value for name, value in line.items() if name not in dropped}
        plan.append(kept | {"shard": shard, "first_frame": frame})
        frame += line["n_frames"]
    return plan


class Layout:
    """A store that is being laid out in `directory` from `parts`."""

    def __init__(self, directory: Path, parts: Parts, n_patches: int, patch_dim: int):
        self.directory = directory
        self._parts = parts
        self._patches = (n_patches, patch_dim)
        try:
            self._adopt(self._read_plan())
        except InputError:
            print(f"{directory} is damaged: the runs in it are made again.", file=sys.stderr)
            shutil.rmtree(directory)
            self._adopt([])

    def _read_plan(self) -> list[dict[str, Any]]:
        path, sums = self.directory / "runs.jsonl", self.directory / CHECKSUMS
        if not path.is_file():
            return []
        text = path.read_bytes()
        if sums.is_file():  # earlier versions wrote none
            found = parse_checksums(sums.read_bytes(), sums, {path.name})
            check_file_sum(text, found[path.name], self.directory, path.name)
        return parse_run_lines(text, path)

    def _adopt(self, plan: list[dict[str, Any]]) -> None:
        self.plan = plan
        self._row = {line["key"]: row for row, line in enumerate(plan)}
        self._shard_lines = [
            list(lines) for _, lines in itertools.groupby(plan, operator.itemgetter("shard"))
        ]
        self._shard_frames = [sum(x["n_frames"] for x in lines) for lines in self._shard_lines]

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The planned shards as `store.json` lists them."""
        return [
            {"file": str(self._shard_path(shard).relative_to(self.directory)), "frames": frames}
            for shard, frames in enumerate(self._shard_frames)
        ]

    def laid_out(self) -> dict[str, dict[str, Any]]:
        """The planned lines of the runs that are in a durable shard, by key."""
        return {
            line["key"]: line
            for shard, lines in enumerate(self._shard_lines)
            if self._shard_path(shard).is_file()
            for line in lines
        }

    def intact(self, line: dict[str, Any]) -> bool:
        """Whether a run that is laid out, and its scale, match their checksums."""
        try:
            frames = zlib.crc32(as_bytes(self._frames(line)))
        except InputError:
            return False
        return frames == line["crc32"] and self._scale_intact(line)

    def _scale_intact(self, line: dict[str, Any]) -> bool:
        try:
            scale = self._scale(line)
        except InputError:
            return False
        return scale is None or scale_checksum(*scale) == line["scale_crc32"]

    def heal(self) -> list[str]:
        """Takes apart what was laid out, if any of it is damaged; the others become parts again.

        Returns:
          The keys of damaged runs that are in no part: these are lost.
        """
        laid_out = self.laid_out()
        damaged = {key for key, line in laid_out.items() if not self.intact(line)}
        if laid_out:
            if not damaged and all(map(self._scale_intact, self.plan)):
                return []
            print(f"{self.directory} is damaged: its runs are laid out again.", file=sys.stderr)
        self._take_apart(damaged)
        # Before the first shard all runs are in parts, and stats are soon written again.
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self._adopt([])
        return sorted(key for key in damaged if self._parts.line(key) is None)

    def replan(self, plan: list[dict[str, Any]]) -> None:
        """Makes a plan the current one, taking apart what was laid out by another plan."""
        text = b"".join(to_json(line, f"Run {line['key']}") for line in plan)
        path = self.directory / "runs.jsonl"
        if path.is_file() and path.read_bytes() == text:
            return
        self._take_apart()
        # From here on everything is in parts, so that this may stop anywhere.
        if self.directory.exists():
            shutil.rmtree(self.directory)
        for directory in (self.directory, self.directory / "shards"):
            directory.mkdir()
            fsync_directory(directory.parent)
        write_checksums(self.directory, {path.name: text})
        write_bytes(path, text)
        self._adopt(plan)

    def write_stats(self) -> None:
        """Writes stats/mean.npy and std.npy, if the plan has them and they are not there yet."""
        if not all("scale_crc32" in line for line in self.plan):
            return
        (self.directory / "stats").mkdir(exist_ok=True)
        fsync_directory(self.directory)
        for i, name in enumerate(("mean", "std")):
            path = self._stats_path(name)
            if not path.is_file():
                shape, scales = (len(self.plan), *self._patches), map(self._parts.scale, self.plan)
                publish_array(path, shape, SCALE_DTYPE, (scale[i] for scale in scales))

    def write_shards(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Writes the shards that are not there yet, and deletes the parts behind them.

        Args:
          progress: is called after each shard with the number of frames done and in all.
        """
        done, total = 0, sum(self._shard_frames)
        for shard, lines in enumerate(self._shard_lines):
            frames, path = self._shard_frames[shard], self._shard_path(shard)
            if not path.is_file():
                shape = (frames, *self._patches)
                publish_array(path, shape, FRAME_DTYPE, map(self._parts.frames, lines))
            for line in lines:
                self._parts.remove(line["key"])
            done += frames
            if progress is not None:
                progress(done, total)

    def sweep(self) -> None:
        """Deletes the unfinished files that killed processes left."""
        for path in self.directory.rglob(".*"):
            path.unlink(missing_ok=True)

    def _take_apart(self, damaged: Collection[str] = ()) -> None:
        """Turns laid-out runs back into parts, except damaged ones and those with a newer part."""
        for shard, lines in enumerate(self._shard_lines):
            path = self._shard_path(shard)
            if not path.is_file():
                continue
            for line in lines:
                if line["key"] not in damaged and self._parts.line(line["key"]) is None:
                    bare = {name: line[name] for name in line if name not in PLACE}
                    self._parts.write(bare, self._frames(line), self._scale(line))
            path.unlink()
            fsync_directory(path.parent)

    def _frames(self, line: dict[str, Any]) -> np.ndarray:
        """(T, N, P) float16, the frames of a run that is laid out."""
        shard, first = line["shard"], line["first_frame"]
        shape = (self._shard_frames[shard], *self._patches)
        frames = ArrayFile(self._shard_path(shard), shape, FRAME_DTYPE)
        return frames.read(first, first + line["n_frames"])

    def _scale(self, line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
        if "scale_crc32" not in line:
            return None
        shape, row = (len(self.plan), *self._patches), self._row[line["key"]]
        paths = map(self._stats_path, ("mean", "std"))
        arrays = (ArrayFile(path, shape, SCALE_DTYPE) for path in paths)
        return tuple(array.read(row, row + 1)[0] for array in arrays)

    def _shard_path(self, shard: int) -> Path:
        return self.directory / "shards" / f"bold-{shard:05d}.npy"

    def _stats_path(self, name: str) -> Path:
        return self.directory / "stats" / f"{name}.npy"
