"""Goodput: the share of the time since a run's first start that went into steps which count.

Each moment belongs to the steps or to one cause of loss, so all of them add up to that time.
goodput.jsonl carries the account over restarts; each of its lines is the whole account at a moment.
After a kill it tells how much time of steps the checkpoint holds that the next start goes on from:
the rest was lost, since these steps are done again. From the last line to the next start nothing is
known, and that is down time.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fmrifm.runs.metrics_writer import LineFile
from fmrifm.runs.sealed_lines import as_metrics, read_lines_backwards

STEPS = "steps"
LOSSES = (
    "start",  # from the start of the process to the first step, without what follows
    "compile",  # of the training step
    "data_wait",  # the devices had ended a step, and the next batch was not there
    "evaluation",  # with its figures, and the probe
    "checkpoint",  # as far as training waits for it, and the model directory
    "profile",  # starting and writing it
    "repeated_steps",  # done after the last checkpoint before a kill
    "down_time",  # between two starts
)


class Account:
    """Where the time of a run went, in seconds by cause, over all of its starts."""

    def __init__(self, began: float | None = None, clock: Callable[[], float] | None = None):
        """
        Args:
          began: Unix time at which this start began; now by default.
          clock: gives Unix seconds, by default such that never jump within a process.
        """
        offset = time.time() - time.perf_counter()
        self.clock = clock or (lambda: offset + time.perf_counter())
        self.starts = 1
        self.done = False  # whether the run is complete
        self._cause, self._since = "start", self.clock() if began is None else began
        self._own = dict.fromkeys((STEPS, *LOSSES), 0.0)  # of this start
        self._past = dict(self._own)
        self._file: LineFile | None = None
        self._step = 0

    def take_up(self, path: Path, step: int) -> None:
        """Adds what earlier starts have noted, and goes on with their file.

        Called once, before time is spent on anything but the start, by the process that writes.

        Args:
          step: how many steps the state has that this start goes on from.
        """
        last, kept = _find_lines(path, step) if path.exists() else (None, None)
        if last is not None:
            self.starts = last["start"] + 1
            self._past |= last["seconds"]
            lost = self._past[STEPS] - kept["seconds"][STEPS]
            self._past[STEPS] -= lost
            self._past["repeated_steps"] += lost
            if last["event"] != "end of run":  # the clocks of two machines may differ
                self._past["down_time"] += max(0.0, self._since - last["time"])
        self._file = LineFile(path)
        self.note(step, "start")

    @contextlib.contextmanager
    def spent(self, cause: str) -> Iterator[None]:
        """The time inside belongs to a cause, but for blocks within that belong to another."""
        before = self._switch(cause)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, cause: str) -> str:
        now = max(self.clock(), self._since)
        self._own[self._cause] += now - self._since
        before, self._cause, self._since = self._cause, cause, now
        return before

    def move(self, seconds: float, cause: str) -> None:
        """Of the time of steps so much turned out to be lost."""
        self._own[STEPS] -= seconds
        self._own[cause] += seconds

    @property
    def seconds(self) -> dict[str, float]:
        """All time since the first start, by cause."""
        self._switch(self._cause)
        return {cause: past + self._own[cause] for cause, past in self._past.items()}

    def metrics(self) -> dict[str, float]:
        """perf/goodput and perf/lost/CAUSE, which add up to 1; perf/{wall,compile}_seconds, the
        latter of this start.
        """
        seconds = self.seconds
        wall = sum(seconds.values())
        share = {cause: value / max(wall, 1e-9) for cause, value in seconds.items()}
        return {
            "perf/goodput": share.pop(STEPS),
            "perf/wall_seconds": wall,
            "perf/compile_seconds": self._own["compile"],
            **{f"perf/lost/{cause}": value for cause, value in share.items()},
        }

    def note(self, step: int, event: str = "step") -> None:
        """Writes the account after so many steps, where this process is the one that writes."""
        self._step, seconds = step, self.seconds
        if self._file:
            rounded = {cause: round(value, 3) for cause, value in seconds.items()}
            line = {"time": round(self._since, 3), "start": self.starts, "step": step}
            self._file.write({**line, "event": event, "seconds": rounded})

    def sync(self) -> None:
        """Makes everything noted durable."""
        if self._file:
            self._file.sync()

    def close(self) -> None:
        if self._file:
            try:
                self.note(self._step, "end of run" if self.done else "end of start")
            finally:
                self._file.close()


def _find_lines(path: Path, step: int) -> tuple[dict | None, dict | None]:
    """The last line of an account, and the last one that a checkpoint of a step still covers.

    The file is read from its end and no further than that line. Without one, the first line counts.
    """
    last = first = None
    for _, text in read_lines_backwards(path):
        line = as_metrics(text)
        if line is None or not _is_account(line):
            continue
        last, first = last or line, line
        # The end of a start may have come during the step after the one it names.
        if line["step"] <= step and not line["event"].startswith("end"):
            break
    return last, first


def _is_account(line: dict) -> bool:
    """Whether a line has all that an account needs; one of an earlier version has no checksum."""
    seconds = line.get("seconds")
    return (
        isinstance(seconds, dict)
        and isinstance(line.get("event"), str)
        and isinstance(line.get("start"), int)
        and STEPS in seconds
        and all(isinstance(x, int | float) for x in (line.get("time"), *seconds.values()))
    )
