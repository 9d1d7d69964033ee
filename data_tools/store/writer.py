"""Writer of stores: many processes add runs, one lays them out; it may be killed and run again.

The work happens in `STORE.partial/` beside the store to be:

```
lock            held by the one job that writes, with a note on it
settings.json   what parts must agree on, checked when a job is resumed
session-TOKEN/  an empty file for each run added by this job, to notice keys that come twice
parts/          the runs added (see `parts`)
sources/        the keys of each source, such as a shard, whose runs were all added
store/          the store being laid out (see `layout`); becomes STORE by one rename
old/            the store that is being replaced, for the moment between two renames
```
"""

import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import fsync_directory, write_bytes
from data_tools.files.locks import OutputLock
from data_tools.spaces.geometry import Geometry
from data_tools.store.checks import check_target, checked_frames, checked_line, checked_scale
from data_tools.store.checksums import CHECKSUMS, write_checksums
from data_tools.store.description import FRAME_DTYPE, STORE_FORMAT, STORE_VERSION
from data_tools.store.json_text import read_note, to_json, write_note
from data_tools.store.layout import Layout, plan_runs
from data_tools.store.parts import Parts, hash_key
from data_tools.store.reader import Store

STORE_SIZES = ("n_runs", "n_frames", "shards")  # what store.json says beside `describe_store`


class StoreWriter:
    """Writes one store; a context manager.

    ```
    with StoreWriter(path, geometry, tr=1.0, preprocessing={...}, provenance={...}) as writer:
        for key, frames in ...:              # in any order, in any processes (pickle the writer)
            if not writer.has(key):          # of an earlier, killed job
                writer.add(key, frames, subject="01", task="rest")
        store = writer.finish()
    ```
    The store appears at `path` only when it is whole. If the block ends without `finish`, what was
    added stays in `STORE.partial/`, and the same job run again goes on from there. The bytes of
    the store do not depend on order, processes or kills.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        geometry: Geometry,
        *,
        tr: float,
        preprocessing: dict[str, Any],
        provenance: dict[str, Any],
        restricted: Sequence[str] = (),
        shard_bytes: int = 2 * 2**30,
        overwrite: bool = False,
    ):
        """Begins a store, or resumes the one that an earlier job left unfinished.

        Args:
          path: where the store shall appear.
          geometry: the space of all its runs.
          tr: seconds between its frames.
          preprocessing: how the frames were made; resuming demands the same.
          provenance: where they come from: sources, commands, versions. No timestamps.
          restricted: fields of the run table that reports, logs and models must not show.
          shard_bytes: most data of a shard.
          overwrite: whether a store at `path` may be replaced, once the new one is whole.

        Raises:
          InputError: something is at `path` already, another process is writing there, or an
            unfinished job there had other settings.
        """
        if not (tr > 0 and math.isfinite(tr)):
            raise InputError(f"The TR of {path} is {tr}: give the seconds between frames.")
        self.path = Path(path).resolve()
        self.geometry = geometry
        self.tr = float(tr)
        self._overwrite, self._shard_bytes = overwrite, shard_bytes
        self._meta = describe_store(geometry, self.tr, preprocessing, provenance, restricted)
        self._partial = self.path.with_name(f"{self.path.name}.partial")
        self._session = self._partial / f"session-{secrets.token_hex(8)}"
        sizes = (geometry.n_patches, geometry.patch_dim)
        self._parts = Parts(self._partial / "parts", *sizes)
        self._owner, self._lock = os.getpid(), None
        if not self._partial.exists():
            check_target(self.path, self._overwrite)  # before anything is made
        self._parts.directory.mkdir(parents=True, exist_ok=True)
        fsync_directory(self._partial.parent)
        self._lock = OutputLock(self._partial / "lock", self.path)
        try:
            check_target(self.path, self._overwrite)
            self._check_settings()
            self._layout = Layout(self._partial / "store", self._parts, *sizes)
            self._tidy()
        except BaseException:
            self.close()
            raise
        self._laid_out = self._layout.laid_out()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process adds runs; the lock and the end of the job stay here.
        return vars(self) | {"_owner": None, "_lock": None}

    def line(self, key: str) -> dict[str, Any] | None:
        """The line of a run that is there, None if there is none."""
        return self._parts.line(key) or self._laid_out.get(key)

    def has(self, key: str) -> bool:
        """Whether a run is there already and matches its checksum; prints a line if it does not."""
        line = self._parts.line(key)
        if line is None and key not in self._laid_out:
            return False
        if line is not None and self._parts.intact(line):
            return True
        if line is None and self._layout.intact(self._laid_out[key]):
            return True
        print(f"Run {key} in {self._partial} is damaged: it is made again.", file=sys.stderr)
        self._parts.remove(key)
        return False

    def has_source(self, name: str) -> bool:
        """Whether all runs of a source were added, by an earlier, killed job too."""
        path = self._source_path(name)
        try:
            return path.is_file() and all(map(self.has, read_note(path)["keys"]))
        except InputError:
            print(f"{path} is damaged: {name} is read again.", file=sys.stderr)
            return False

    def finish_source(self, name: str, keys: Sequence[str]) -> None:
        """Notes, durably, that all runs of a source were added: it need not be read again."""
        self._source_path(name).parent.mkdir(exist_ok=True)
        note = {"name": name, "keys": list(keys)}
        write_note(self._source_path(name), note, f"The source {name}")

    def _source_path(self, name: str) -> Path:
        return self._partial / "sources" / f"{hash_key(name)}.json"

    def begun(self) -> dict[str, dict[str, Any]]:
        """The lines of the runs that are there, by key, those of an earlier, killed job too."""
        return self._layout.laid_out() | {line["key"]: line for line in self._parts.lines()}

    def refuse_others(self, others: Collection[str], what: str) -> None:
        """Refuses the runs or inputs (`what`) of another, killed job: they would slip in here."""
        if others:
            raise InputError(
                f"{self._partial} was begun with other {what}, such as {min(others)}: delete it to "
                "start over, or give the inputs that it was begun with."
            )

    def add(
        self,
        /,  # so that a field may have any name
        key: str,
        frames_TxNxP: np.ndarray,
        *,
        mean: np.ndarray | None = None,
        std: np.ndarray | None = None,
        missing: np.ndarray | None = None,
        **fields: Any,
    ) -> None:
        """Adds a run, durably. Safe from many processes and threads at once.

        Args:
          key: name of the run, unique in the store.
          frames_TxNxP: (T, N, P) float16, or float32 that is cast; 0 off the cortex.
          mean: (N, P), the mean of each pixel before z-scoring. Stored if all runs have it.
          std: (N, P), the standard deviation; given with `mean`.
          missing: offsets into a flat N * P frame of the pixels without data.
          **fields: JSON metadata: dataset, subject, session, task ("" unless given), tr (the
            store's unless given), events (a list of BIDS events), quality figures, ...

        Raises:
          InputError: the run does not fit the store, or its key was added before by this job.
          OSError: the disk is full, say; nothing of the run is left then.
        """
        line = checked_line(key, fields, missing, self.geometry, self.tr)
        frames = checked_frames(key, frames_TxNxP, self.geometry)
        scale = checked_scale(key, mean, std, self.geometry)
        claim = self._session / hash_key(key)
        try:
            open(claim, "xb").close()
        except FileExistsError:
            raise InputError(f"Run {key} was added twice: give every run its own key.") from None
        except FileNotFoundError:
            raise InputError(
                f"Run {key} comes too late: the job that writes {self.path} has ended."
            ) from None
        try:
            self._parts.write(line, frames, scale)
        except BaseException:
            claim.unlink(missing_ok=True)
            raise

    def finish(
        self,
        progress: Callable[[int, int], None] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> Store:
        """Lays the runs out and makes the store appear.

        Killed at any point, the same job run again finishes it.

        Args:
          progress: is called now and then with the number of frames laid out and in all.
          extra: further files that the store shall hold, such as the list of skipped runs.

        Raises:
          InputError: there are no runs, or a part was damaged.
        """
        if self._owner != os.getpid() or self._lock is None:
            raise RuntimeError("Only the open writer in the process that made it can finish.")
        if lost := self._layout.heal():
            raise InputError(
                f"In {self._partial} {len(lost)} runs were damaged, such as {lost[0]}: run the "
                "command again, which makes them again."
            )
        lines = self.begun()
        if not lines:
            raise InputError(f"No run was added to {self.path}, so there is no store to write.")
        frame_bytes = self.geometry.n_patches * self.geometry.patch_dim * FRAME_DTYPE.itemsize
        self._layout.replan(plan_runs(lines.values(), frame_bytes, self._shard_bytes))
        self._layout.write_stats()
        self._layout.write_shards(progress)
        meta = self._meta | {
            "n_runs": len(lines),
            "n_frames": sum(line["n_frames"] for line in lines.values()),
            "shards": self._layout.shards,
        }
        directory = self._layout.directory
        for path in directory.iterdir():
            # What an earlier, killed end of this job said may not be true any more.
            if path.is_file() and path.name not in ("runs.jsonl", CHECKSUMS):
                path.unlink()
        write_bytes(directory / "geometry.npz", self.geometry.to_bytes())
        for name, data in (extra or {}).items():
            write_bytes(directory / name, data)
        write_bytes(directory / "store.json", to_json(meta, "The description of the store", 2))
        write_checksums(directory)
        self._publish()
        self.close()
        return Store(self.path)

    def discard(self) -> None:
        """Deletes what was added; for the process that made the writer, before it closes it."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def close(self) -> None:
        """Ends the job. What was added and not finished stays, to be resumed."""
        if self._owner != os.getpid() or self._lock is None:
            return
        replaced = (self._partial / "old").exists() and not self.path.exists()
        planned = (self._partial / "store" / "runs.jsonl").exists()
        if not (any(self._parts.directory.glob("*.json")) or planned or replaced):
            shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.release()
        self._lock = None

    def _check_settings(self) -> None:
        path = self._partial / "settings.json"
        names = ("geometry_sha256", "tr", "preprocessing", "version")
        new = {name: self._meta[name] for name in names}
        planned = (self._partial / "store" / "runs.jsonl").exists()
        try:
            old = read_note(path) if path.is_file() else None
        except InputError:
            # Nobody knows by which settings the parts were made.
            print(f"{path} is damaged: all runs are made again.", file=sys.stderr)
            for name in ("parts", "store", "sources"):
                shutil.rmtree(self._partial / name, ignore_errors=True)
            self._parts.directory.mkdir()
            old = None
        if old is not None and (planned or any(self._parts.directory.glob("*.json"))):
            other = [name.removesuffix("_sha256") for name in names if new[name] != old.get(name)]
            if other:
                raise InputError(
                    f"{self._partial} was begun with another {' and '.join(other)}: delete it to "
                    "start over, or use the settings that it was begun with."
                )
        else:
            write_note(path, new, "The settings")

    def _tidy(self) -> None:
        """Clears away what killed jobs left and nobody needs."""
        for session in self._partial.glob("session-*"):
            shutil.rmtree(session)
        if self.path.exists():
            shutil.rmtree(self._partial / "old", ignore_errors=True)
        self._parts.sweep()
        self._layout.sweep()
        self._session.mkdir()

    def _publish(self) -> None:
        """Puts the laid-out store in its place; an old one goes only when the new one stands."""
        check_target(self.path, self._overwrite)
        if self._overwrite and self.path.exists():
            os.replace(self.path, self._partial / "old")
        os.replace(self._layout.directory, self.path)
        fsync_directory(self.path.parent)


def describe_store(
    geometry: Geometry,
    tr: float,
    preprocessing: dict[str, Any],
    provenance: dict[str, Any],
    restricted: Sequence[str] = (),
) -> dict[str, Any]:
    """What `store.json` says but for sizes and shards; InputError if JSON cannot hold it."""
    meta = {
        "format": STORE_FORMAT,
        "version": STORE_VERSION,
        "dtype": FRAME_DTYPE.name,
        "tr": tr,
        "n_patches": geometry.n_patches,
        "patch_dim": geometry.patch_dim,
        "geometry_sha256": geometry.sha256(),
        "preprocessing": preprocessing,
        "provenance": provenance,
    }
    if restricted:
        meta["restricted"] = sorted(set(restricted))
    return json.loads(to_json(meta, "The description of the store"))
