"""Devices that are not there: TPU slices, described by the TPU compiler, and CPU devices."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_tools.errors import InputError, check_least

if TYPE_CHECKING:
    import jax

# Without this, v4 has a device for each half of a chip.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
EXAMPLES = "v4:2x2x4, v5e:16x16, v5p:4x4x4, v6e:4x4, cpu:8"


def open_topology(name: str, slices: int = 1) -> Sequence["jax.Device"]:
    """The devices of so many slices of a topology.

    Args:
      name: such as "v5e:16x16", or "cpu:8" for devices of this host. Call it before anything else
        touches a device.
    """
    import jax
    from jax.experimental import topologies

    kind, _, shape = name.partition(":")
    check_least(f"--slices={slices}", slices, 1)
    jax.config.update("jax_platforms", "cpu")
    if kind == "cpu":
        if not shape.isdecimal() or int(shape) < 1 or slices > 1:
            raise InputError(f"--topology={name}: write cpu:8 for eight devices, in one slice.")
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices("cpu")
    # The compiler else asks a metadata server, which only TPU hosts have, for what we tell it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    options = _OPTIONS.get(kind, {}) | ({"num_slices": slices} if slices > 1 else {})
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:
        raise InputError(_reason(name, str(error))) from error
    return found.devices


def _reason(name: str, error: str) -> str:
    if "libtpu" in error and "INVALID_ARGUMENT" not in error:
        if "in use" in error or "lockfile" in error or "already" in error:
            return "Another process uses the TPU compiler: wait for it, one can at a time."
        return "The TPU compiler is not installed: pip install libtpu, or take cpu:8."
    told = error.partition("INVALID_ARGUMENT: ")[2].splitlines() or error.splitlines()[:1]
    return f"There is no topology {name!r} ({told[0].rstrip('.')}): write one such as {EXAMPLES}."
