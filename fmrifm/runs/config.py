"""The config of a run: as plain values, compared with that of an earlier start."""

import json

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from data_tools.errors import InputError

# These change where a run computes or what it shows, never its numbers beyond rounding.
HARMLESS = (
    *("mesh.", "attention", "data.threads", "data.workers", "data.requests", "data.cache_"),
    *("keep_", "checkpoint_every", "log_every", "figures", "wandb_project", "probe."),
)
# What runs did before there were these fields.
BEFORE = {
    "optim.name": "adamw",
    "optim.lr_scaling": "linear",
    "data.window": 0,
    "data.clips_per_window": 1,
}


def check_unchanged(saved: dict, current: dict, allow: bool) -> None:
    """Compares the run in the workdir with the one that is asked for.

    Raises:
      InputError: they differ and that is not allowed; lists every differing field. Another
        optimizer is never allowed.
    """
    before, now = BEFORE | flatten(saved["config"]), flatten(current["config"])
    optimizers = before["optim.name"], now["optim.name"]
    if len(set(optimizers)) > 1:
        raise InputError(
            f"The run in this workdir has optim.name={optimizers[0]}, whose state does not serve "
            f"{optimizers[1]}: start from its weights with --config.init_from in another --workdir."
        )
    changes = [
        f"{name} ({before[name]} -> {now.get(name)})"
        for name in sorted(before)
        if before[name] != now.get(name) and not name.startswith(HARMLESS)
    ]
    new = sorted(name for name in now.keys() - before.keys() if not name.startswith(HARMLESS))
    if new:
        changes.append(f"the version, which had no {new[0]} and drew other masks")
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


def config_dict(config: ConfigDict) -> dict:
    """The config as plain values."""
    return json.loads(config.to_json())


def flatten(tree: dict) -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    return flatten_dict(tree, sep=".")
