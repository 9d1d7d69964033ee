"""Where numbers go: metrics.jsonl always, TensorBoard events, Weights & Biases if asked for."""

import contextlib
import importlib.util
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_tools.errors import InputError
from fmrifm.runs.event_file import EventFile, scalar
from fmrifm.runs.sealed_lines import (
    LINE_CRC,
    as_metrics,
    read_lines,
    read_lines_backwards,
    seal,
    unseal,
)


class LineFile:
    """A file of JSON objects with checksums, one a line, that grows by whole lines."""

    def __init__(self, path: Path, end: int | None = None):
        """
        Args:
          end: how many bytes of the file stay, up to the end of a line; by default all but a last
            line that a kill has cut off.
        """
        # Unbuffered: a full disk is noticed by the write that fails, and only by that one.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        with self.naming_it():
            if end is not None:
                self._file.truncate(end)
            place, line = next(read_lines_backwards(path), (0, b"\n"))
            if not line.endswith(b"\n"):
                if unseal(line) is None:
                    self._file.truncate(place)
                else:
                    self._file.write(b"\n")

    def write(self, values: Mapping) -> None:
        line = seal(values, LINE_CRC)
        with self.naming_it():
            while line:  # on a full disk the first write may be short, the next one says why
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Makes everything written durable."""
        with self.naming_it():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()

    @contextlib.contextmanager
    def naming_it(self) -> Iterator[None]:
        """A failed write does not say where it was."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._file.name)
            raise


class MetricsWriter:
    """Appends metrics of steps; opening at a step drops what a killed run wrote after it.

    Only one process of a run makes one.

    Attributes:
      kept: the values of the step that it was opened at, which an earlier start wrote.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int,
        wandb_project: str | None,
        config: Mapping,
        place: str | None = None,
    ):
        """
        Args:
          first_step: lines of later steps are removed, so that a resumed run neither repeats nor
            skips a step.
          wandb_project: name of a Weights & Biases project, None for none.
          config: what Weights & Biases shows as the run's configuration.
          place: what the run is called there, by default the workdir.
        """
        path = workdir / "metrics.jsonl"
        end, self.kept = _find_step(path, first_step) if path.exists() else (0, {})
        self._file = LineFile(path, end)
        self._events = EventFile(workdir)
        self._events.restart(first_step + 1)
        self._wandb = None
        if wandb_project:
            import wandb  # an extra

            # One id a workdir: a resumed run continues its curve.
            place = place or str(workdir)
            run_id = f"{place.rsplit('/', 1)[-1]}-{zlib.crc32(place.encode()):08x}"
            self._wandb = wandb.init(
                project=wandb_project,
                dir=str(workdir),
                config=dict(config),
                id=run_id,
                resume="allow",
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write({"step": step, **values})
        with self._file.naming_it():
            self._events.write(step, (scalar(name, value) for name, value in values.items()))
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def sync(self) -> None:
        """Makes everything written durable, before a checkpoint that relies on it."""
        self._file.sync()

    def close(self) -> None:
        self._file.close()
        with self._file.naming_it():
            self._events.close()
        if self._wandb:
            self._wandb.finish()


def read_metrics(path: Path) -> list[dict]:
    """As `iterate_metrics`, in memory."""
    return list(iterate_metrics(path))


def iterate_metrics(path: Path) -> Iterator[dict]:
    """The lines with a step of a metrics.jsonl or goodput.jsonl; others are left out.

    A kill may cut off the last line. Others are damaged only by disks and people: that is reported.
    """
    damaged: list[int] = []
    torn: list[int] = []  # has no newline, which only the last line may lack
    for number, text in enumerate(read_lines(path), 1):
        damaged.extend(torn)
        torn.clear()
        line = as_metrics(text)
        if line is not None:
            yield line
        elif text.strip():
            (damaged if text.endswith(b"\n") else torn).append(number)
    _report(path, [str(number) for number in damaged[:5]])


def _find_step(path: Path, step: int) -> tuple[int, dict]:
    """Where the lines up to a step end, and the values of that step.

    Only the end of the file is read. Damaged lines before the last one of the step stay: whoever
    reads the file leaves them out.
    """
    damaged, end, values = 0, 0, {}
    for number, (place, text) in enumerate(read_lines_backwards(path)):
        line = as_metrics(text)
        if line is None:
            # Only the last line of the file may lack its newline, after a kill.
            damaged += bool(text.strip()) and (number > 0 or text.endswith(b"\n"))
        elif line["step"] <= step:
            end = end or place + len(text)
            if line["step"] < step:
                break
            values = {**line, **values}
    _report(path, [f"{damaged} near its end"] * bool(damaged))
    return end, values


def _report(path: Path, damaged: list[str]) -> None:
    if damaged:
        print(f"{path}: left out damaged lines ({', '.join(damaged)}).", file=sys.stderr)


def check_wandb(project: str | None) -> None:
    """Raises InputError if Weights & Biases is wanted but not installed."""
    if project and not importlib.util.find_spec("wandb"):
        raise InputError(
            f"wandb_project={project!r} needs Weights & Biases: pip install 'fmrifm[wandb]'."
        )
