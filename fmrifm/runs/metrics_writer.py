"""Where numbers go: metrics.jsonl always, TensorBoard events, Weights & Biases if asked for."""

import contextlib
import importlib.util
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.runs.event_file import EventFile, scalar


class LineFile:
    """A file of JSON objects, one a line, that grows by whole lines."""

    def __init__(self, path: Path, lines: Iterable[Mapping]):
        """
        Args:
          lines: what the file shall hold to begin with, whatever is there.
        """
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        # Unbuffered: a full disk is noticed by the write that fails, and only by that one.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, values: Mapping) -> None:
        line = (json.dumps(values) + "\n").encode()
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
        before = read_metrics(path) if path.exists() else []
        self._file = LineFile(path, [line for line in before if line["step"] <= first_step])
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


def _is_step(value: object) -> bool:
    return type(value) is int and value >= 0


def read_metrics(path: Path, *fields: str) -> list[dict]:
    """The lines with a step, and these fields, of a metrics.jsonl; others are left out.

    A kill may cut off the last line. Others are damaged only by disks and people: that is reported.
    """
    lines, damaged = [], []
    *whole, last = Path(path).read_bytes().split(b"\n")
    for number, text in enumerate([*whole, last], 1):
        with contextlib.suppress(ValueError, RecursionError):  # no JSON, or no UTF-8
            line = json.loads(text)
            if (
                isinstance(line, dict)
                and line.keys() >= {"step", *fields}
                and _is_step(line["step"])
            ):
                lines.append(line)
                continue
        if text.strip() and number <= len(whole):
            damaged.append(str(number))
    if damaged:
        print(f"{path}: left out damaged lines ({', '.join(damaged[:5])}).", file=sys.stderr)
    return lines


def check_wandb(project: str | None) -> None:
    """Raises InputError if Weights & Biases is wanted but not installed."""
    if project and not importlib.util.find_spec("wandb"):
        raise InputError(
            f"wandb_project={project!r} needs Weights & Biases: pip install 'fmrifm[wandb]'."
        )
