"""The state of a sweep on disk, shared by launchers, jobs and whoever looks on.

    WORKDIR/sweep.json          what there is to do: points and their commands
    WORKDIR/NAME/point.json     how far a point is, written by whoever runs it
    WORKDIR/sweep.jsonl         all of them, a line each, rewritten whenever one changes

Whoever runs a point holds a lock in its directory. A kill sets the lock free, so that a point which
calls itself running, and which nobody runs, is known.
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.errors import InputError, check_file_name
from data_tools.files.atomic import write_bytes
from data_tools.files.leftovers import remove_leftovers
from data_tools.store.checks import refuse_inside_store
from fmrifm.runs.sealed_lines import seal, unseal
from fmrifm.sweep.sweep_file import Experiment, Sweep

PENDING, RUNNING, DONE, FAILED = STATUSES = ("pending", "running", "done", "failed")
_LOCK, _LAUNCHER = ".lock", ".launcher.lock"
_SILENCE = 3600  # seconds without a sign of life after which nobody is thought to be at work


class Ledger:
    """The points of the sweep in a workdir."""

    def __init__(self, workdir: str | os.PathLike):
        self.workdir = Path(workdir)
        path = self.workdir / "sweep.json"
        if not path.exists():
            raise InputError(f"{workdir} holds no sweep: check --workdir.")
        plan = unseal(path.read_bytes())
        if plan is None:
            raise InputError(f"{path} is damaged: launch the sweep again, which writes it.")
        try:
            self.directory: str = plan["directory"]  # where commands are given
            self.reports: list[str] = plan["reports"]
            self.experiments = {x["name"]: Experiment(**x) for x in plan["points"]}
            _check_plan(self.directory, self.reports, list(self.experiments.values()))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({error}): launch the sweep again, which writes it."
            ) from error

    def commands(self, name: str) -> list[list[str]]:
        """Of a point."""
        if name not in self.experiments:
            raise InputError(f"The sweep in {self.workdir} has no point {name} any more.")
        return self.experiments[name].commands

    def state(self, name: str) -> dict[str, Any]:
        """status, returncode, error, and done: the commands of stages that have ended well."""
        path = self.workdir / name / "point.json"
        state = {"status": PENDING, "returncode": None, "error": None, "done": []}
        state |= _read_state(path) or {}
        if state["status"] == DONE and len(state["done"]) < len(self.commands(name)):
            state["status"] = PENDING  # the sweep file asks for one more probe
        if state["status"] == RUNNING and not _is_at_work(path, state):
            state["status"] = PENDING  # a kill ended it
        return state

    def states(self) -> dict[str, dict[str, Any]]:
        return {name: self.state(name) for name in self.experiments}

    def note(self, name: str, wait: bool = True, **changes: Any) -> None:
        """Changes the state of a point, and sweep.jsonl with it.

        Args:
          wait: for others who write sweep.jsonl. Signal handlers must not: they may be inside.
        """
        place = self.workdir / name
        place.mkdir(parents=True, exist_ok=True)
        state = {**self.state(name), **changes, "time": time.time()}
        write_bytes(place / "point.json", seal(state))
        self.publish(wait)

    def publish(self, wait: bool = True) -> None:
        """Writes sweep.jsonl."""
        with _locked(self.workdir / ".publish.lock", wait) as lock:
            if lock is None:
                return
            lines = []
            for experiment in self.experiments.values():
                state = self.state(experiment.name)
                line = {x: getattr(experiment, x) for x in ("name", "overrides", "workdir")}
                line |= {x: state[x] for x in ("status", "returncode", "error")}
                lines.append(json.dumps(line) + "\n")
            write_bytes(self.workdir / "sweep.jsonl", "".join(lines).encode())

    def locked(self, name: str) -> contextlib.AbstractContextManager[int | None]:
        """Holds the lock of a point, or gives None where another process has it.

        The file descriptor is for the processes that do the work: it is held as long as they live.
        """
        place = self.workdir / name
        place.mkdir(parents=True, exist_ok=True)
        return _locked(place / _LOCK, wait=False)

    def is_locked(self, name: str) -> bool:
        """Whether somebody runs the point."""
        return _is_held(self.workdir / name / _LOCK)

    def is_launched(self) -> bool:
        """Whether a launcher is at work here."""
        return _is_held(self.workdir / _LAUNCHER)

    def reporting(self) -> contextlib.AbstractContextManager[int | None]:
        """Holds the lock of reports, which one process at a time makes; see `locked`."""
        return _locked(self.workdir / ".report.lock", wait=False)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _check_plan(directory: Any, reports: Any, experiments: list[Experiment]) -> None:
    """Raises ValueError where a sweep.json has values of other types than we write."""
    if not isinstance(directory, str) or not _is_texts(reports):
        raise ValueError("directory or reports")
    for point in experiments:
        check_file_name(point.name, "The sweep's point")
        commands = isinstance(point.commands, list) and all(map(_is_texts, point.commands))
        if not (isinstance(point.overrides, dict) and isinstance(point.workdir, str) and commands):
            raise ValueError(f"point {point.name}")


def _read_state(path: Path) -> dict[str, Any] | None:
    """The state in a point.json; None without one, or where it is damaged.

    A point whose state is lost is pending: its stages run again and find what they did before.
    """
    try:
        state = unseal(path.read_bytes())
    except FileNotFoundError:
        return None
    if state is not None and _is_state(state):
        return state
    _report_damage(path)
    return None


def _is_state(state: dict[str, Any]) -> bool:
    """Whether the fields are those that we write, with values of their types."""
    kinds = {"returncode": int | None, "error": str | None, "done": list, "directory": str}
    return (
        state.get("status") in STATUSES
        and {"done", "time"} <= state.keys()
        and all(isinstance(state[x], kind) for x, kind in kinds.items() if x in state)
        and all(map(_is_texts, state["done"]))
    )


@functools.cache  # a status that is shown again and again reports it once
def _report_damage(path: Path) -> None:
    print(f"{path} is damaged: its point counts as pending.", file=sys.stderr)


def _is_at_work(path: Path, state: dict[str, Any]) -> bool:
    """Whether somebody runs a point that calls itself running, by its point.json."""
    held = _is_held(path.with_name(_LOCK))
    if held or state.get("host") == platform.node():
        return held
    # Some file systems hide the locks of other machines.
    newest = 0.0
    for file in path.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, file.stat().st_mtime)
    return time.time() - newest < _SILENCE


@contextlib.contextmanager
def launching(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds the lock of the launcher; the directory is made if it is not there."""
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with _locked(Path(workdir) / _LAUNCHER, wait=False) as handle:
        if handle is None:
            raise InputError(
                f"Another process launches the sweep in {workdir}: wait for it (see --status), or "
                "end it."
            )
        remove_leftovers(workdir)
        yield


@contextlib.contextmanager
def _locked(path: Path, wait: bool) -> Iterator[int | None]:
    """Holds the lock of a file, or gives None where another process has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = _lock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), path)
        yield handle if held else None
    finally:
        os.close(handle)


def _is_held(path: Path) -> bool:
    """Whether a process has the lock of a file; who looks hinders no other, and may be a guest."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB, path)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int, path: Path) -> bool:
    """Locks an open file; returns whether it could."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks does not say where it was asked
        error.filename = str(path)
        raise
    return True


def open_ledger(sweep: Sweep, workdir: str | os.PathLike) -> Ledger:
    """Begins a sweep in a workdir, or goes on with the one that is there, which may have grown."""
    refuse_inside_store(workdir, "--workdir")
    workdir = Path(workdir)
    points = [dataclasses.asdict(experiment) for experiment in sweep.experiments]
    plan = {
        "version": 1,
        "config": sweep.config_file,
        "directory": os.getcwd(),
        "reports": sweep.reports,
        "points": points,
    }
    _check_unchanged(workdir, {point["name"]: point["commands"] for point in points})
    write_bytes(workdir / "sweep.json", seal(plan, indent=1))
    ledger = Ledger(workdir)
    ledger.publish()
    return ledger


def _check_unchanged(workdir: Path, new: dict[str, list[list[str]]]) -> None:
    with contextlib.suppress(InputError):  # no sweep yet, or a damaged file, which is written now
        for name in Ledger(workdir).experiments.keys() - new.keys():
            print(f"The sweep has no point {name} any more; its directory stays.")
    for name, commands in new.items():
        path = workdir / name / "point.json"
        state = _read_state(path)
        if state is None:
            continue
        running = state["status"] == RUNNING and _is_at_work(path, state)
        then = [*state["done"], *([state["current"]] if running else [])]
        before = [_spelled_out(command, state.get("directory", "")) for command in then]
        if before != [_spelled_out(command, os.getcwd()) for command in commands[: len(then)]]:
            raise InputError(
                f"The point {name} in {workdir} was run with another command: use another "
                "--workdir, or give the same flags."
            )


def _spelled_out(command: list[str], directory: str) -> list[str]:
    """A command with whole paths where ours stand, so that other spellings are the same."""
    ours = ("--workdir=", "--config=", "--config.model=")
    whole = []
    for argument in command:
        flag = next((flag for flag in ours if argument.startswith(flag)), None)
        path = argument.removeprefix(flag) if flag else ""
        whole.append(
            f"{flag}{os.path.abspath(os.path.join(directory, path))}" if flag else argument
        )
    return whole
