"""How a run starts: checks on resuming, and warm starts from other weights."""

from pathlib import Path

import jax

from data_tools.errors import InputError
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import check_grid
from fmrifm.model.files import is_model_directory, load_model
from fmrifm.trainer.checkpoint import restore_meta, restore_params
from fmrifm.trainer.experiment import Program
from fmrifm.trainer.step import TrainState

# These change where a run computes or what it shows, never its numbers beyond rounding.
HARMLESS = (
    "mesh.",
    "data.threads",
    "data.workers",
    "keep_",
    "checkpoint_every",
    "log_every",
    "figures",
    "wandb_project",
)


def check_unchanged(saved: dict, current: dict, allow: bool) -> None:
    """Compares the run in the workdir with the one that is asked for.

    Raises:
      InputError: they differ and that is not allowed; lists every differing field.
    """
    before, now = flatten(saved["config"]), flatten(current["config"])
    changes = [
        f"{name} ({before.get(name)} -> {now.get(name)})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(HARMLESS)
    ]
    changes += [
        f"the contents of {path}"
        for path, digest in current["stores"].items()
        if saved["stores"].get(path, digest) != digest
    ]
    if not changes:
        return
    if not allow:
        raise InputError(
            f"The run in this workdir was started with another config: {', '.join(changes)}. "
            "Use another --workdir, or --allow_config_change to continue all the same."
        )
    print(f"Continuing with a changed config: {', '.join(changes)}.")


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def warm_start(program: Program, path: str) -> tuple[TrainState, list[dict]]:
    """A fresh state around the weights of a model directory or of a checkpoint.

    Returns:
      The state, and the subjects those weights have seen.

    Raises:
      InputError: nothing there, or weights of another model or grid.
    """
    if is_model_directory(path):
        files = load_model(path)
        geometry = cut_geometry(program.geometry, program.config.model.patch)
        check_grid(geometry, files.geometry, "The training data", f"The model {path}")
        overlap = files.geometry.overlap(geometry)
        print(f"Starting from {path}: its mask and that of the data overlap by {overlap:.1%}.")
        _print_differences(files.options, program.options)
        wanted = jax.tree.map(lambda x: x.shape, program.shapes.params)
        found = jax.tree.map(lambda x: x.shape, files.params)
        if wanted != found:
            raise InputError(
                f"{path} holds a model of other sizes: {_first_difference(found, wanted)}; set "
                "config.model to its options (in its config.json)."
            )
        return program.state_with_params(files.params), files.subjects_seen
    if not Path(path).exists():
        raise InputError(f"init_from={path} does not exist.")
    params = restore_params(path, program.abstract_state().params)
    print(f"Starting from the checkpoint {path}.")
    return program.state_with_params(params), restore_meta(path)["subjects_seen"]


def _print_differences(found, wanted) -> None:
    names = [n for n in vars(wanted) if getattr(found, n) != getattr(wanted, n)]
    if names:
        changes = (f"{n} {getattr(found, n)} -> {getattr(wanted, n)}" for n in names)
        print(f"Model options that change from there: {', '.join(changes)}.")


def _first_difference(found: dict, wanted: dict) -> str:
    found, wanted = flatten(found), flatten(wanted)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            break
    return f"{name} is {found.get(name, 'absent')}, wanted {wanted.get(name, 'absent')}"
