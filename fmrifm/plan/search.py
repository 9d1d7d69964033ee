"""The largest batch that a chip holds, and the fastest settings: several plans side by side."""

import copy
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.model.options import CHOICES
from fmrifm.plan.plan import Plan, make_plan, with_batch
from fmrifm.trainer.mesh import make_mesh

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
    """
    best = []
    settings = list(_settings(config, devices))
    for changed in tqdm(settings, "search", unit="setting"):
        found = _largest(changed, geometry, devices, topology)
        if found is not None:
            best.append(found)
    if not best:
        raise InputError(
            f"Not even one clip a chip fits on {topology}: choose larger chips, more of them, or a "
            "smaller model."
        )
    fastest = max(best, key=lambda plan: (plan["clips_per_second"] or 0, plan["batch_per_chip"]))
    names = ("mesh", "remat", "batch_per_chip", "hbm_bytes", "mfu_bound", "clips_per_second")
    return fastest | {"search": [{name: plan[name] for name in names} for plan in best]}


def _settings(config: ConfigDict, devices: Sequence[jax.Device]) -> Iterator[ConfigDict]:
    """The layout of the config, and the state over all chips of a slice; all of `model.remat`."""
    mesh = make_mesh(config.mesh, devices).shape
    most = mesh["data"] * mesh["fsdp"]
    for fsdp in sorted({mesh["fsdp"], most}):
        for remat in CHOICES["remat"]:
            changed = copy.deepcopy(config)
            changed.mesh.update({**mesh, "fsdp": fsdp, "data": most // fsdp})
            changed.model.remat = remat
            yield changed


def _largest(config, geometry, devices, topology) -> Plan | None:
    """The plan of the largest batch that fits; None where none does."""

    def at(clips: int) -> Plan:
        return make_plan(with_batch(config, devices, clips)[0], geometry, devices, topology)

    small, large = (at(clips) for clips in _FIRST)
    clips = _FIRST[0]
    while not small["fits"] and clips > 1:
        clips //= 2
        small = large = at(clips)
    if not large["fits"]:
        return small if small["fits"] else None
    limit = large["hbm_bytes"]["limit"]
    if limit is None or clips < _FIRST[0]:
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
