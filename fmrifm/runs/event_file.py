"""Event files, which TensorBoard shows."""

import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary


class EventFile:
    """A file of events in a directory. A failed write raises OSError at once.

    TensorBoard's own EventFileWriter writes in a thread, which dies of a full disk and then blocks
    the run.
    """

    def __init__(self, directory: Path):
        # Imported here: it takes a second, and most commands write no events.
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(open(directory / name, "ab"))  # noqa: SIM115
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def restart(self, step: int) -> None:
        """Hides the events of earlier files from this step on."""
        self._write(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, summaries: Iterable[Summary]) -> None:
        """Writes summaries of a step and flushes the file."""
        for summary in summaries:
            self._write(Event(wall_time=time.time(), step=step, summary=summary))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def scalar(name: str, value: float) -> Summary:
    """A number by its tag; characters that TensorBoard cannot show become underscores."""
    return Summary(value=[Summary.Value(tag=clean_tag(name), simple_value=value)])


def clean_tag(name: str) -> str:
    """A name with underscores for the characters that TensorBoard does not allow."""
    return re.sub(r"[^-/\w.]", "_", name)
