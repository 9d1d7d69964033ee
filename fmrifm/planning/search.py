"""The largest batch that a chip holds, and the fastest settings: several plans side by side."""

import copy
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.geometry import Geometry
from fmrifm.model.options import CHOICES
from fmrifm.planning.plan import Plan, make_plan, with_batch

_FIRST = (8, 16)  # clips a chip, from which memory is told for others: it grows in proportion
_MOST = 1024


def search(
    config: ConfigDict, geometry: Geometry, devices: Sequence[jax.Device], topology: str
) -> Plan:
    """The best of the layouts and of what the backward pass recomputes.

    Each is compiled for two small batches, and for the largest power of two of clips a chip that
    should fit by them, or half of it where it does not.

    Returns:
      The plan with the most clips a second, with "search": one plan of each setting.

    Raises:
      InputError: nothing fits.
    """
    best = []
    settings = list(_settings(config, len(devices)))
    for changed in tqdm(settings, "search", unit="setting"):
        found = _largest(changed, geometry, devices, topology)
        if found is not None:
            best.append(found)
    if not best:
        raise InputError(
            f"Not even {_FIRST[0]} clips a chip fit on {topology}: choose larger chips, more of "
            "them for mesh.fsdp, or a smaller model."
        )
    fastest = max(best, key=lambda plan: (plan["clips_per_second"] or 0, plan["batch_per_chip"]))
    names = ("mesh", "remat", "batch_per_chip", "hbm_bytes", "mfu_bound", "clips_per_second")
    return fastest | {"search": [{name: plan[name] for name in names} for plan in best]}


def _settings(config: ConfigDict, n_devices: int) -> Iterator[ConfigDict]:
    """The layout of the config, and the state over all chips of a slice; all of `model.remat`."""
    for fsdp in sorted({config.mesh.fsdp, n_devices // config.mesh.dcn_data // config.mesh.tensor}):
        for remat in CHOICES["remat"]:
            changed = copy.deepcopy(config)
            changed.mesh.fsdp, changed.mesh.data, changed.model.remat = fsdp, -1, remat
            yield changed


def _largest(config, geometry, devices, topology) -> Plan | None:
    """The plan of the largest batch that fits; None where none does."""

    def at(clips: int) -> Plan:
        return make_plan(with_batch(config, len(devices), clips)[0], geometry, devices, topology)

    small, large = (at(clips) for clips in _FIRST)
    if not large["fits"]:
        return small if small["fits"] else None
    limit = large["hbm_bytes"]["limit"]
    if limit is None:
        return large
    peaks = [plan["hbm_bytes"]["peak"] for plan in (small, large)]
    slope = max(1.0, (peaks[1] - peaks[0]) / (_FIRST[1] - _FIRST[0]))
    clips = _FIRST[1]
    while clips < _MOST and peaks[1] + slope * (2 * clips - _FIRST[1]) <= limit:
        clips *= 2
    while clips > _FIRST[1]:
        plan = at(clips)
        if plan["fits"]:
            return plan
        clips //= 2
    return large
