"""Checkpoints: the only file that knows orbax.

A checkpoint holds the train state and a little JSON, no iterator state: batch k is a function of k.
Saves are asynchronous; a checkpoint appears whole or not at all, with checksums of its files.
"""

import contextlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import flax.struct
import jax
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from data_tools.errors import InputError
from data_tools.files.remote import file_system, is_url
from fmrifm.runs.damaged_checkpoint import (
    DamagedCheckpointError,
    check_step,
    damage_named,
    reading,
    reason,
    set_aside,
    write_step_sums,
)


def _save_small_arrays_whole() -> None:
    """Stops orbax from splitting small replicated arrays among the devices that hold them.

    Each share is cut out by a compiled program of its own. Below a megabyte that takes far longer
    than writing the array.
    """
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20)
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)  # it would warn that a handler is replaced
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    absl.logging.set_verbosity(verbosity)


_save_small_arrays_whole()


@flax.struct.dataclass
class TrainState:
    """Arrays only; what is static stays outside.

    Attributes:
      step: int32, updates done.
      params: float32 tree.
      opt_state: the optimizer's tree.
      first_bad_step: int32, the first update whose loss, gradient or result was not finite, else
        -1.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    first_bad_step: jax.Array


def quiet() -> None:
    """Leaves speaking to exceptions: orbax logs every file, and a failed write a hundred times."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    # gcsfs warns of buckets whose kind it may not ask for, at every call.
    for name in ("absl", "asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    usual = sys.unraisablehook

    def hook(problem) -> None:
        if str(problem.exc_value) != "Event loop is closed":  # a write after the one that failed
            usual(problem)

    sys.unraisablehook = hook


def as_path(place: str | os.PathLike) -> Path:
    """A place, absolute; a URL as something that has the methods of a path.

    Raises:
      InputError: it cannot be opened, as a package is missing.
    """
    if not is_url(place):
        return Path(place).absolute()
    file_system(str(place))
    import fsspec

    # Else what other processes save and delete would not be seen.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(str(place).rstrip("/"))


class _KeepOne(keep.PreservationPolicy):
    """Keeps one step, another one when told."""

    step: int | None = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of a run: the newest, every n-th, and the one called best."""

    def __init__(self, directory: Path, newest: int, every: int):
        """
        Args:
          directory: absolute, see `as_path`.
          newest: how many of the newest stay.
          every: steps that are multiples of this stay for good; 0 for none.
        """
        # Not orbax's own BestN: it fixes the metric with the save, but a run stopped at an
        # evaluation saves first and evaluates when it continues.
        self._directory, self._best = directory, _KeepOne()
        policies: list = [keep.LatestN(newest), self._best]
        if every:
            policies.append(keep.EveryNSteps(every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,  # of a killed run
        )
        self._saving: int | None = None
        if not is_url(directory):
            # Called by the first process, when the files of all are written and before the
            # directory gets its name.
            options.async_options = ocp.options.AsyncOptions(
                post_finalization_callback=self._write_sums
            )
        with reading(directory):
            self._manager = ocp.CheckpointManager(directory, options=options)

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def keep_best(self, step: int) -> None:
        """From now on this step stays, be it saved already or next."""
        self._best.step = step

    def save(self, state: TrainState, step: int, meta: dict) -> None:
        """Starts saving; returns as soon as the state may be donated.

        Raises:
          OSError: this or the last save could not be written; InputError in a bucket.
        """
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._disk_errors():
            self._manager.wait_until_finished()  # the last save still needs its step's number
            self._saving = step
            self._manager.save(step, args=args, force=True)

    def _write_sums(self) -> None:
        write_step_sums(self._directory / f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}")

    def restore_newest(
        self, abstract: TrainState, check: Callable[[dict], None]
    ) -> tuple[dict, TrainState]:
        """The newest checkpoint that is whole: the JSON beside the state, and the state.

        Damaged ones that are newer are moved aside and reported, since this run will save these
        steps again. In a bucket, and among checkpoints without checksums, damage is an error.

        Args:
          abstract: shapes with shardings.
          check: raises an error where the JSON says that this run must not go on from there.

        Raises:
          InputError: no checkpoint is whole, or it is of another model.
        """
        damaged: dict[int, DamagedCheckpointError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            place = self._directory / str(step)
            try:
                check_step(place, "meta")
                meta = self._restore(step, meta=ocp.args.JsonRestore()).meta
                check(meta)
                check_step(place, "state")
            except DamagedCheckpointError as error:
                damaged[step] = error
                continue
            with _opened(place) as opened:
                _check_stored(*opened, abstract.params)
            state = self._restore(step, state=ocp.args.StandardRestore(abstract)).state
            if damaged:
                set_aside(self._directory, damaged, step)
                self._manager.reload()
            return meta, state
        raise InputError(
            f"{'; '.join(error.problem for error in damaged.values())}, and there is no other one: "
            "copy one back, or start again in another --workdir."
        )

    def _restore(self, step: int, **items):
        with damage_named(self._directory, step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Returns when the last save is durable; OSError if it could not be written."""
        with self._disk_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._disk_errors():
            self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Failed writes as OSError; what they left is removed.

        In a bucket they are of many kinds, and what they left does not count as a checkpoint.
        """
        try:
            yield
        except Exception as error:
            if is_url(self._directory):
                raise InputError(
                    f"No checkpoint could be written to {self._directory} ({reason(error)}): "
                    "check the network and who may write there; the same command continues from "
                    "the last one that is whole."
                ) from error
            told = re.search(r"os_error_code='(\d+)'", str(error))  # by tensorstore
            number = error.errno if isinstance(error, OSError) else told and int(told[1])
            if not number:
                raise
            if jax.process_index() == 0:
                for half in self._directory.glob("*.orbax-checkpoint-tmp"):
                    _remove(half)
            raise OSError(number, os.strerror(number), str(self._directory)) from error


def _remove(directory: Path) -> None:
    """Removes a directory that threads may still write to."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.05)


def find_checkpoint(path: str | os.PathLike) -> tuple[Path, int] | None:
    """The checkpoint directory and step behind a workdir, its `checkpoints/`, or one step in it.

    Args:
      path: a path, or a URL.

    Raises:
      InputError: a URL cannot be read.
    """
    with reading(path):
        path = as_path(path)
        if path.name.isdigit() and (path / "state").is_dir():
            return path.parent, int(path.name)
        for directory in (path / "checkpoints", path):
            if directory.is_dir() and (steps := _steps(directory)):
                return directory, max(steps)
    return None


def list_steps(path: str | os.PathLike) -> list[int]:
    """The steps that are saved behind a workdir, ascending; none where there is no checkpoint."""
    found = find_checkpoint(path)
    if found is None:
        return []
    with reading(found[0]):
        return sorted(_steps(found[0]))


def _steps(directory: Path) -> list[int]:
    if is_url(directory):  # where a checkpoint grows under its own name until it is whole
        return ocp.utils.checkpoint_steps(directory)
    return [int(p.name) for p in directory.iterdir() if p.name.isdigit()]


def restore_params(path: str | os.PathLike, abstract_params: Any) -> Any:
    """The parameters alone of a checkpoint, for a warm start or a probe.

    Args:
      path: a workdir, its `checkpoints/`, or one step in it.
      abstract_params: shapes with shardings.

    Raises:
      InputError: no checkpoint there, or one of another model.
    """
    wanted = {"params": abstract_params}
    with _opened(path, "state") as (manager, step):
        _check_stored(manager, step, abstract_params)
        args = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        return manager.restore(step, args=ocp.args.Composite(state=args)).state["params"]


def _check_stored(manager: ocp.CheckpointManager, step: int, abstract_params: Any) -> None:
    """Raises InputError unless a checkpoint is of the model with these parameters."""
    stored = manager.item_metadata(step).state.tree["params"]
    check_shapes(stored, abstract_params, f"{manager.directory}/{step}")


def check_shapes(stored: dict, wanted: dict, where: str) -> None:
    """Raises InputError unless two trees of parameters have the same names and shapes."""
    found, needed = (
        {name: tuple(x.shape) for name, x in flatten_dict(tree, sep="/").items()}
        for tree in (stored, wanted)
    )
    for name in sorted(found.keys() | needed.keys()):
        if found.get(name) != needed.get(name):
            raise InputError(
                f"{where} holds another model, whose {name} has shape {found.get(name, 'none')} "
                f"and not {needed.get(name, 'none')}: set config.model to its options (in its "
                "config.json)."
            )


def restore_meta(path: str | os.PathLike) -> dict:
    """The JSON saved beside the newest checkpoint behind `path`."""
    with _opened(path, "meta") as (manager, step):
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return manager.restore(step, args=args).meta


@contextlib.contextmanager
def _opened(
    path: str | os.PathLike, checked: str | None = None
) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """Orbax's manager and the step behind a path; InputError if there is none.

    Args:
      checked: the item whose files are compared with their checksums.
    """
    found = find_checkpoint(path)
    if found is None:
        raise InputError(f"{path} holds no checkpoint: check the path.")
    if checked is not None:
        check_step(found[0] / str(found[1]), checked)
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    with damage_named(*found), ocp.CheckpointManager(found[0], item_handlers=handlers) as manager:
        yield manager, found[1]
