"""Checkpoints: the only file that knows orbax.

A checkpoint holds the train state and a little JSON, no iterator state: batch k is a function of k.
Saves are asynchronous; a checkpoint appears whole or not at all.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from data_tools.errors import InputError
from fmrifm.trainer.step import TrainState


class Checkpoints:
    """The checkpoints of a run: the newest, every n-th, and the best by an evaluation set."""

    def __init__(self, directory: Path, newest: int, every: int, best_metric: str | None):
        """
        Args:
          directory: absolute.
          newest: how many of the newest stay.
          every: steps that are multiples of this stay for good; 0 for none.
          best_metric: name of the metric whose lowest value stays; None for none.
        """
        policies: list = [keep.LatestN(newest)]
        if every:
            policies.append(keep.EveryNSteps(every))
        best_fn = None
        if best_metric:

            def best_fn(metrics):
                return metrics[best_metric]

            policies.append(
                keep.BestN(
                    get_metric_fn=best_fn, reverse=True, n=1, keep_checkpoints_without_metrics=False
                )
            )
        self._best_metric = best_metric
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy(policies),
                best_fn=best_fn,
                best_mode="min",
            ),
        )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best(self) -> float | None:
        """The lowest value of the metric among the checkpoints that have it."""
        values = [self._manager.metrics(step) for step in self._manager.all_steps()]
        return min((v[self._best_metric] for v in values if v), default=None)

    def save(self, state: TrainState, step: int, meta: dict, metric: float | None = None) -> None:
        """Starts saving; returns as soon as the state may be donated."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
            metrics=None if metric is None else {self._best_metric: metric},
            force=True,
        )

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, laid out as `abstract` (shapes with shardings) says."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(self._manager.latest_step(), args=args).state

    def meta(self) -> dict:
        """The JSON saved beside the newest state."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self._manager.latest_step(), args=args).meta

    def wait(self) -> None:
        """Returns when the last save is durable."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def find_checkpoint(path: str | Path) -> tuple[Path, int] | None:
    """The checkpoint directory and step behind a workdir, its `checkpoints/`, or one step in it."""
    path = Path(path).absolute()
    if path.name.isdigit() and (path / "state").is_dir():
        return path.parent, int(path.name)
    for directory in (path / "checkpoints", path):
        if directory.is_dir():
            steps = [int(p.name) for p in directory.iterdir() if p.name.isdigit()]
            if steps:
                return directory, max(steps)
    return None


def restore_params(path: str | Path, abstract_params: Any) -> Any:
    """The parameters alone of a checkpoint, for a warm start or a probe.

    Args:
      path: a workdir, its `checkpoints/`, or one step in it.
      abstract_params: shapes with shardings.

    Raises:
      InputError: no checkpoint there, or one of another model.
    """
    directory, step = _must_find(path)
    wanted = {"params": abstract_params}
    with ocp.CheckpointManager(directory) as manager:
        stored = manager.item_metadata(step).state.tree["params"]
        _check_shapes(stored, abstract_params, f"{directory}/{step}")
        args = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        return manager.restore(step, args=ocp.args.Composite(state=args)).state["params"]


def _check_shapes(stored, wanted, where: str) -> None:
    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(p, simple=True, separator="/"): tuple(x.shape) for p, x in leaves
        }

    found, needed = shapes(stored), shapes(wanted)
    for name in sorted(found.keys() | needed.keys()):
        if found.get(name) != needed.get(name):
            raise InputError(
                f"{where} is of another model: {name} has shape {found.get(name, 'none')}, this "
                f"model's {needed.get(name, 'none')}."
            )


def restore_meta(path: str | Path) -> dict:
    """The JSON saved beside the newest checkpoint behind `path`."""
    directory, step = _must_find(path)
    with ocp.CheckpointManager(directory) as manager:
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return manager.restore(step, args=args).meta


def _must_find(path: str | Path) -> tuple[Path, int]:
    found = find_checkpoint(path)
    if found is None:
        raise InputError(f"{path} holds no checkpoint.")
    return found
