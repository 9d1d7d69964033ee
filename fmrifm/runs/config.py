"""The config of a run: its numbers checked, as plain values, compared with an earlier start's."""

import json
from collections.abc import Mapping
from math import inf
from typing import Any

from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.safe_text import without_secrets_in

# These change where a run computes or what it shows, never its numbers beyond rounding.
HARMLESS = (
    *("mesh.", "attention", "data.threads", "data.workers", "data.requests", "data.cache_"),
    "data.verify",
    *("keep_", "checkpoint_every", "log_every", "figures", "eval_linear", "wandb_project"),
    "watchdog_minutes",
    "probe.",
)
# What runs did before there were these fields.
BEFORE = {
    "optim.name": "adamw",
    "optim.lr_scaling": "linear",
    "data.window": 0,
    "data.clips_per_window": 1,
    "data.verify": False,
    "model.network_maps": 0,
}


SEED = "[0, 4294967295]"  # what the generators of NumPy and scikit-learn take


def check_numbers(config: ConfigDict, ranges: Mapping[str, str]) -> None:
    """Raises InputError for a number, or one of a list, outside its interval; NaN is in none.

    Args:
      ranges: interval such as "(0, 1]" -> the fields that lie in it, in one text; None passes.
    """
    for interval, names in ranges.items():
        low, high = map(float, interval[1:-1].split(","))
        ends = [low] * (interval[0] == "[") + [high] * (interval[-1] == "]")
        least = interval[0] == "[" and high == inf
        wanted = f"be {low:g} or more" if least else f"lie in {interval}"
        for name in names.split():
            section, _, field = name.rpartition(".")
            found = (config[section] if section else config)[field]
            for value in found if isinstance(found, tuple | list) else (found,):
                if not (value is None or low < value < high or value in ends):
                    raise InputError(f"{name}={value} must {wanted}: change it.")


def check_unchanged(saved: dict, current: dict, allow: bool) -> None:
    """Compares the run in the workdir with the one that is asked for.

    Raises:
      InputError: they differ and that is not allowed; lists every differing field. Another
        optimizer is never allowed.
    """
    # Earlier versions kept passwords in URLs.
    saved, current = without_secrets_in(dict(saved)), without_secrets_in(dict(current))
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
        if not digest.startswith(saved["stores"].get(path, digest))
    ]
    changes += [
        f"the runs that {name} chooses"
        for name, digest in current.get("chosen", {}).items()
        if saved.get("chosen", {}).get(name, digest) != digest
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
    """The config as plain values, without the passwords of its URLs: files of a run keep it."""
    return without_secrets_in(json.loads(config.to_json()))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Commands that need no JAX use it, so not that of Flax."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        below = isinstance(value, Mapping)
        values |= flatten(value, f"{prefix}{name}.") if below else {f"{prefix}{name}": value}
    return values
