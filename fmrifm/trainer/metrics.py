"""Where numbers go: metrics.jsonl always, TensorBoard events, Weights & Biases if asked for."""

import contextlib
import importlib.util
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from data_tools.errors import InputError
from data_tools.files import write_bytes


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
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= first_step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            write_bytes(path, text.encode())
        # Unbuffered: a full disk is noticed by the write that fails, and only by that one.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._tensorboard = _TensorBoard(workdir, first_step + 1)
        self._wandb = None
        if wandb_project:
            self._wandb = _start_wandb(workdir, wandb_project, config, place or str(workdir))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        with self._naming_the_file():
            while line:  # on a full disk the first write may be short, the next one says why
                line = line[self._file.write(line) :]
            self._tensorboard.write(step, values)
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def sync(self) -> None:
        """Makes everything written durable, before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with self._naming_the_file():
            self.sync()
            self._file.close()
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """A failed write does not say where it was."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._file.name)
            raise


class _TensorBoard:
    """Scalars as TensorBoard events.

    Not tensorboardX's SummaryWriter: its thread dies of a full disk and then blocks the run.
    """

    def __init__(self, directory: Path, first_step: int):
        """Events from first_step on that an earlier process wrote are hidden."""
        self._events = EventsWriter(str(directory / "events"))
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=first_step, session_log=restart))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl; a last line cut off by a kill is left out."""
    lines = []
    for line in Path(path).read_text().split("\n"):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def check_wandb(project: str | None) -> None:
    """Raises InputError if Weights & Biases is wanted but not installed."""
    if project and not importlib.util.find_spec("wandb"):
        raise InputError(
            f"wandb_project={project!r} needs Weights & Biases: pip install 'fmrifm[wandb]'."
        )


def _start_wandb(workdir: Path, project: str, config: Mapping, place: str):
    import wandb  # an extra

    # One id a workdir: a resumed run continues its curve.
    run_id = f"{place.rsplit('/', 1)[-1]}-{zlib.crc32(place.encode()):08x}"
    return wandb.init(
        project=project, dir=str(workdir), config=dict(config), id=run_id, resume="allow"
    )


class Throughput:
    """Wall time between two log lines, split into waiting for data and the rest."""

    def __init__(self, batch_size: int, step_flops: float, peak_flops: float | None):
        """
        Args:
          step_flops: floating-point operations of a step.
          peak_flops: what all devices could do in a second, None where it is not known.
        """
        self._batch_size, self._step_flops, self._peak_flops = batch_size, step_flops, peak_flops
        self.restart()

    def restart(self) -> None:
        """Starts a new interval; time spent on evaluation and saving is not counted."""
        self._begin, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def add_step(self, waited: float) -> None:
        self._waited += waited
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The perf/ metrics of the interval, which ends."""
        elapsed = max(time.perf_counter() - self._begin, 1e-9)
        step_time = elapsed / max(self._steps, 1)
        values = {
            "perf/step_time": step_time,
            "perf/clips_per_second": self._batch_size / step_time,
            "perf/data_wait_fraction": self._waited / elapsed,
        }
        if self._peak_flops:
            values["perf/mfu"] = self._step_flops / step_time / self._peak_flops
        self.restart()
        return values
