"""Parts: the runs of a store that is being written, one file set a run, in any order.

`HASH.npy` holds the frames, `HASH.scale.npy` the mean and std if there are any, and `HASH.json`,
which is published last and makes the part count, the run's line of `runs.jsonl` but for its place.
Processes that write different runs never meet in a file.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.npy import ArrayFile, as_bytes, publish_array
from data_tools.store.description import FRAME_DTYPE, SCALE_DTYPE
from data_tools.store.json_text import read_note, write_note
from data_tools.store.reader import scale_checksum


class Parts:
    """The directory of parts of a store with frames of (n_patches, patch_dim)."""

    def __init__(self, directory: Path, n_patches: int, patch_dim: int):
        self.directory = directory
        self._patches = (n_patches, patch_dim)

    def write(
        self,
        line: dict[str, Any],
        frames: np.ndarray,
        scale: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        """Publishes a run durably, in place of an older part of the same key.

        Args:
          line: the run's JSON fields; `n_frames` and the checksums are added here.
          frames: (T, N, P) float16.
          scale: mean and std, each (N, P) float32, or None.
        """
        line = line | {"n_frames": len(frames), "crc32": zlib.crc32(as_bytes(frames))}
        if scale is not None:
            line["scale_crc32"] = scale_checksum(*scale)
        # The old part stops counting before its files change.
        self._path(line["key"], "json").unlink(missing_ok=True)
        publish_array(self._path(line["key"], "npy"), frames.shape, FRAME_DTYPE, [frames])
        if scale is not None:
            path = self._path(line["key"], "scale.npy")
            publish_array(path, (2, *self._patches), SCALE_DTYPE, scale)
        write_note(self._path(line["key"], "json"), line, f"Run {line['key']}")

    def line(self, key: str) -> dict[str, Any] | None:
        """The line of a part, or None if there is no such part."""
        path = self._path(key, "json")
        return read_note(path) if path.is_file() else None

    def lines(self) -> list[dict[str, Any]]:
        """The lines of all parts, in no particular order."""
        return [read_note(path) for path in self.directory.glob("*.json")]

    def intact(self, line: dict[str, Any]) -> bool:
        """Whether the files of a part are whole and match their checksums."""
        try:
            self.frames(line)
            self.scale(line)
        except InputError:
            return False
        return True

    def frames(self, line: dict[str, Any]) -> np.ndarray:
        """(T, N, P) float16, the frames of a part; InputError if they are damaged."""
        shape = (line["n_frames"], *self._patches)
        frames = ArrayFile(self._path(line["key"], "npy"), shape, FRAME_DTYPE).read(0, shape[0])
        if zlib.crc32(as_bytes(frames)) != line["crc32"]:
            raise self._damaged(line)
        return frames

    def scale(self, line: dict[str, Any]) -> np.ndarray | None:
        """(2, N, P) float32 mean and std of a part, or None; InputError if they are damaged."""
        if "scale_crc32" not in line:
            return None
        shape = (2, *self._patches)
        scale = ArrayFile(self._path(line["key"], "scale.npy"), shape, SCALE_DTYPE).read(0, 2)
        if scale_checksum(*scale) != line["scale_crc32"]:
            raise self._damaged(line)
        return scale

    def remove(self, key: str) -> None:
        """Deletes a part, if it is there."""
        for suffix in ("json", "scale.npy", "npy"):
            self._path(key, suffix).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Deletes what killed processes left: unfinished files, files without a line, bad lines."""
        for path in self.directory.glob("*.json"):
            try:
                read_note(path)
            except InputError:
                print(f"{path} is damaged: its run is made again.", file=sys.stderr)
                path.unlink()
        for path in self.directory.iterdir():
            whole = (self.directory / f"{path.name.split('.')[0]}.json").exists()
            if path.name.startswith(".") or not whole:
                path.unlink(missing_ok=True)

    def _path(self, key: str, suffix: str) -> Path:
        return self.directory / f"{hash_key(key)}.{suffix}"

    def _damaged(self, line: dict[str, Any]) -> InputError:
        return InputError(
            f"The part of run {line['key']} in {self.directory} does not match its checksum: run "
            "the command that makes the store again, so that this run is written again."
        )


def hash_key(key: str) -> str:
    """A file name for a run key, which may hold any character."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
