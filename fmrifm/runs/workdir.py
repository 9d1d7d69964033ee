"""Where the files of a run lie: in a directory, or here first and then in a bucket.

Orbax writes checkpoints into buckets itself. All else is appended to or replaced, which buckets
cannot do: it is written to a local mirror, and copied into the bucket by the first process.
"""

import contextlib
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.files.leftovers import remove_leftovers
from data_tools.files.remote import file_system, is_absence, is_url, remote_errors
from data_tools.store.checks import refuse_inside_store
from fmrifm.runs.checkpoint import as_path
from fmrifm.runs.hold import hold
from fmrifm.runs.sealed_lines import as_metrics, read_lines, read_lines_backwards

CHECKPOINTS = "checkpoints"
_PAUSE = 5.0  # seconds between copies at least
_REMOVED = ("non_finite.json", "model/")
_WHOLE = 2**25  # bytes: smaller files are read at once, as they may grow meanwhile


def check_workdir(place: str | os.PathLike) -> None:
    """Raises InputError unless the workdir is there or can be made, before long work begins."""
    if is_url(place):
        if not str(place).startswith("gs://"):
            raise InputError(
                f"--workdir={place}: checkpoints can be written to directories and to gs:// only, "
                "so choose one of these (a bucket of another kind may be mounted as a directory)."
            )
        bucket = "/".join(str(place).split("/")[:3])
        with remote_errors(bucket):
            files, path = file_system(bucket)
            if not files.exists(path):
                raise InputError(f"{bucket} does not exist: make this bucket, or check --workdir.")
            files.exists(str(place))
        return
    refuse_inside_store(place, "--workdir")
    workdir = Path(place).absolute()
    there = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file, where --workdir={workdir} needs a directory.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"No permission to write in {there}: choose another --workdir.")


def mirror_of(place: str) -> Path:
    """The local directory that stands for a URL, the same one at every start."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    name = place.split("://")[1].strip("/").replace("/", "_")[-80:]
    return cache / "fmrifm" / "workdirs" / f"{name}-{zlib.crc32(place.encode()):08x}"


class Mirror:
    """A local directory whose files are copied to a URL as they change."""

    def __init__(self, place: str, local: Path):
        self.place, self.local = place, local
        self._copies = True
        self._sent: dict[str, tuple[int, int]] = {}  # name -> size and time of what is there
        self._error: Exception | None = None
        self._one_at_a_time = threading.Lock()
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def fetch(self) -> None:
        """Brings the mirror to the state of the place.

        Files of figures and models are not read by runs, and not fetched. A mirror may have what
        could not be copied any more: that is kept, and copied from now on. But a place with
        nothing in it is a new run, whatever the mirror has of another.
        """
        with remote_errors(self.place):
            files, root = file_system(self.place)
            files.invalidate_cache()
            try:
                found = files.ls(root, detail=True)
            except FileNotFoundError as error:
                if not is_absence(error):
                    raise
                found = []
            if not found and self.local.exists():
                # Aside, not away: of the run that it belonged to it may have what nobody else has.
                self.local.rename(self.local.with_name(f"{self.local.name}.{time.time_ns()}"))
            self.local.mkdir(parents=True, exist_ok=True)
            for entry in found:
                name = _below(root, entry["name"])
                if entry["type"] == "directory" and name != CHECKPOINTS:
                    sizes = files.find(entry["name"], detail=True)
                    self._note({_below(root, k): v["size"] for k, v in sizes.items()})
                elif entry["type"] == "file" and name and not name.startswith("events."):
                    self._fetch_file(name, files, entry["name"])
                elif name:
                    self._note({name: entry["size"]})

    def _note(self, sizes: dict[str, int]) -> None:
        """What is in the place already, as far as the mirror has it too."""
        for name, size in sizes.items():
            state = _state(self.local / name)
            self._sent[name] = state if state and state[0] == size else (size, 0)

    def _fetch_file(self, name: str, files: Any, source: str) -> None:
        path, beside = self.local / name, self.local / f".{name}"
        files.get_file(source, str(beside))
        if name.endswith(".jsonl") and path.exists():
            # The rest could not be copied; but the mirror may be of another run in this place.
            theirs, ours = _ends(beside), _ends(path)
            if theirs[0] in (None, ours[0]) and _reach(ours[1]) > _reach(theirs[1]):
                self._sent[name] = (beside.stat().st_size, 0)
                beside.unlink()
                return
        os.replace(beside, path)
        self._sent[name] = _state(path)

    def upload_soon(self) -> None:
        """Asks for a copy in the background; several requests may become one copy."""
        if self._thread is None and self._copies:
            self._thread = threading.Thread(target=self._keep_copying, daemon=True)
            self._thread.start()
        self._wanted.set()

    def _keep_copying(self) -> None:
        failures = 0
        while not self._closing.is_set():
            self._wanted.wait()
            if self._closing.is_set():
                return
            self._wanted.clear()
            begin = time.monotonic()
            failures = 0 if self._copy() else failures + 1
            if failures:
                self._wanted.set()
            # Copying takes at most a tenth of the time.
            took = time.monotonic() - begin
            self._closing.wait(max(_PAUSE, 9 * took, min(2.0**failures, 300) * (failures > 0)))

    def upload(self, tries: int = 2) -> bool:
        """Copies what has changed, with pauses of 1, 2, 4 ... seconds between the tries.

        Returns:
          Whether the place has all files; failures are reported and raise nothing.
        """
        for i in range(tries):
            if self._copy():
                return True
            if i < tries - 1:
                time.sleep(2.0**i)
        return False

    def _copy(self) -> bool:
        """One try; the first one of several that fail is reported."""
        if not self._copies:
            return True
        with self._one_at_a_time:
            try:
                self._send_changes()
            except Exception as error:  # whatever it is, no training should end for it
                if self._error is None:
                    tqdm.write(f"{_why(self.place, error)}; training goes on.", file=sys.stderr)
                self._error = error
                return False
            if self._error is not None:
                tqdm.write(f"Files are copied to {self.place} again.", file=sys.stderr)
            self._error = None
            return True

    def _send_changes(self) -> None:
        with remote_errors(self.place):
            files, root = file_system(self.place)
            states = {str(p.relative_to(self.local)): _state(p) for p in _files_in(self.local)}
            for name, state in states.items():
                if state is None or self._sent.get(name) == state:
                    continue
                path, target = self.local / name, f"{root}/{name}"
                if state[0] < _WHOLE:
                    files.pipe_file(target, path.read_bytes())
                else:
                    files.put_file(str(path), target)
                self._sent[name] = state
            # Only what runs remove themselves: a mirror that somebody clears is no reason to.
            for name in [n for n in self._sent if n.startswith(_REMOVED) and n not in states]:
                if "config.json" in states and files.exists(f"{root}/{name}"):
                    files.rm_file(f"{root}/{name}")
                    del self._sent[name]

    def _complaint(self) -> str:
        return (
            f"{_why(self.place, self._error)}: they are in {self.local}, and the same command "
            "copies them."
        )

    def _stop(self) -> None:
        self._closing.set()
        self._wanted.set()

    def close(self) -> None:
        """Ends the thread and copies what is new, once more."""
        self._stop()
        if not self._copy():
            tqdm.write(f"error: {self._complaint()}", file=sys.stderr)


class Workdir(Mirror):
    """The place of a run; only a bucket has a mirror, and only the first process copies.

    Attributes:
      place: as the user calls it, absolute.
      local: the directory that files are written to; the place itself, except for buckets.
      checkpoints: where orbax writes.
    """

    def __init__(self, place: str | os.PathLike):
        path = as_path(place)
        super().__init__(str(path), mirror_of(str(path)) if is_url(path) else path)
        self.checkpoints = path / CHECKPOINTS
        self._copies = False
        self._held = contextlib.ExitStack()

    def open(self) -> None:
        """Makes the directory and holds it; from a bucket comes what an earlier start left there.

        Raises:
          InputError: another job has it.
        """
        # Beside a mirror, which may be moved aside.
        held = Path(f"{self.local}.held") if is_url(self.place) else self.local
        self._held.enter_context(hold(held))
        if is_url(self.place) and jax.process_index() == 0:
            self.fetch()
            self._copies = True
            remove_leftovers(self.local)  # which is not the directory that is held
        self.local.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """As of a mirror; then another job may have the directory."""
        with self._held:
            super().close()

    def check_shared(self, wanted_by: str) -> None:
        """Raises InputError where several processes do not all have the files."""
        if is_url(self.place) and jax.process_count() > 1:
            raise InputError(
                f"{wanted_by} of several processes needs a --workdir on a disk that all of them "
                f"share, and {self.place} is a bucket: set it to 0 or choose such a directory."
            )

    def finish(self) -> None:
        """Copies everything at the end of a run.

        Raises:
          InputError: the files could not be copied; names the directory that has them.
        """
        if not self.upload(tries=5):
            self._copies = False
            self._stop()
            raise InputError(self._complaint())


def _why(place: str, error: Exception) -> str:
    reason = " ".join(str(error.__cause__ or error).split())[:300] or type(error).__name__
    return f"Files of this run could not be copied to {place} ({reason})"


def _below(root: str, name: str) -> str:
    return name.removeprefix(root.rstrip("/")).strip("/")


def _files_in(directory: Path) -> Iterator[Path]:
    """Files that are whole: one being written begins with a dot, or lies in such a directory."""
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None if it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _ends(path: Path) -> tuple[dict | None, dict | None]:
    """The first and the last line of a file of metrics that are whole."""
    lines = map(as_metrics, read_lines(path))
    back = (as_metrics(text) for _, text in read_lines_backwards(path))
    return next(filter(None, lines), None), next(filter(None, back), None)


def _reach(line: dict | None) -> float:
    """How far a file reaches by its last line: a time where that has one, else a step."""
    return -1 if line is None else line.get("time", line["step"])
