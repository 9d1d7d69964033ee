"""Damaged checkpoints: how they are noticed, named and set aside.

Checksums are written before a checkpoint appears and compared before it is restored. They lie in
the directory of the step, so that a checkpoint has either all of them or, of earlier versions,
none. Checkpoints in buckets have none: a bucket keeps a checksum of every object and checks it at
each transfer, and reading all bytes a second time would cost as much as the save.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_tools.errors import InputError, describe_os_error
from data_tools.files.directory_sums import find_damage, write_sums
from data_tools.files.remote import is_url, remote_errors

# Orbax rewrites these when it gives a checkpoint its name; nothing of ours is read from them.
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")

_OF_DAMAGE = (OSError, ValueError, KeyError, AttributeError)  # the last where _METADATA is missing


class DamagedCheckpointError(InputError):
    """A file of a checkpoint has changed since it was saved; raised on all processes.

    Attributes:
      problem: the sentence without the fix.
    """

    def __init__(self, place: Path, what: str):
        self.problem = f"Checkpoint {place.name} of {place.parent} is damaged ({what})"
        super().__init__(f"{self.problem}: move {place} away to use an earlier one.")


def write_step_sums(directory: Path) -> None:
    """Writes the checksums of a step that is complete, but does not have its name yet."""
    files = (path for path in directory.rglob("*") if path.is_file())
    write_sums(
        directory,
        (str(path.relative_to(directory)) for path in files if path.name not in _UNCHECKED),
    )


def check_step(directory: Path, item: str) -> None:
    """Compares the files of an item of a step, such as "state", with their checksums.

    All processes call it, and each reads its share of the files: nobody waits for long.

    Raises:
      DamagedCheckpointError: a file has changed or is missing; on all processes.
      InputError: a file cannot be read, as the disk or its permissions fail.
    """
    if is_url(directory):
        return
    damage, failure = "", ""
    try:
        found = find_damage(directory, f"{item}/", (jax.process_index(), jax.process_count()))
        damage = " ".join(found or ())
    except OSError as error:  # says nothing about what the file holds
        failure = describe_os_error(error)
    if failure := _first_of_all(failure):
        raise InputError(failure)
    if damage := _first_of_all(damage):
        raise DamagedCheckpointError(directory, damage)


def _first_of_all(text: str) -> str:
    """The first text of all processes that is not empty, on each of them."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode()[:500].ljust(500, b"\0"), np.uint8)
    texts = (bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(padded))
    return next(filter(None, texts), b"").decode(errors="replace")


def set_aside(directory: Path, damaged: Mapping[int, DamagedCheckpointError], whole: int) -> None:
    """Moves damaged steps to names that no step has, and reports them; all processes call it.

    Args:
      whole: the step that the run goes on from.
    """
    for step, error in damaged.items():
        if jax.process_index() == 0:
            endings = itertools.chain([""], map("-{}".format, itertools.count(2)))
            names = (directory / f"{step}.damaged{ending}" for ending in endings)
            place = next(name for name in names if not name.exists())
            (directory / str(step)).rename(place)
            print(
                f"{error.problem}; it is kept as {place.name}, and training goes on from {whole}.",
                file=sys.stderr,
            )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints set aside")


@contextlib.contextmanager
def damage_named(directory: Path, step: int) -> Iterator[None]:
    """Turns errors that orbax raises for damaged files into InputError."""
    try:
        with reading(directory):
            yield
    except Exception as error:
        # Orbax raises a bare Exception around the error of an array that it cannot read.
        cause = error.__cause__ if type(error) is Exception else error
        if not isinstance(cause, _OF_DAMAGE):
            raise
        why = f" or cannot be read ({reason(error)})" if is_url(directory) else ""
        raise InputError(
            f"Checkpoint {step} of {directory} is damaged{why}: move {directory / str(step)} away "
            "to use an earlier one."
        ) from error


@contextlib.contextmanager
def reading(place: str | os.PathLike) -> Iterator[None]:
    """Of a URL, what the network refuses is told in a sentence."""
    with remote_errors(str(place)) if is_url(place) else contextlib.nullcontext():
        yield


def reason(error: Exception) -> str:
    """The message of an error on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
