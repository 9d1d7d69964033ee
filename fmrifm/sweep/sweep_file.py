"""From a sweep file to the commands of its points.

A sweep file is a config file of `fmrifm.pretrain` or `fmrifm.probe` (`get_config`) with

    get_sweep()    its points, dictionaries of overrides, see combine.py
    get_probes()   optional: name -> settings of a probe of each point's model, among them "config",
                   the probe's config file
    REPORTS        optional: what is made when all points are done, "table" or "scaling";
                   ("table",) by default

Both functions may ask for `config`, that of the command line, and for `arg`, what stands after
the colon of --config.
"""

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.runs.config import flatten
from fmrifm.sweep.arguments import command_line
from fmrifm.sweep.combine import NAME, name_of

REPORTS = ("table", "scaling")
_RESERVED = re.compile(r"slurm|scaling|hparams|.*\.(json|jsonl|md|csv|tex|png)")
_LONGEST = 120  # characters of a point's name


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A point with its commands.

    Attributes:
      name: of the point, and of its directory in the sweep's.
      overrides: field -> value.
      workdir: of the run.
      commands: arguments of Python, one list a stage: the run, then each probe of its model.
    """

    name: str
    overrides: dict[str, Any]
    workdir: str
    commands: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file as it was asked for.

    Attributes:
      config_file: PATH[:ARG].
      experiments: in the order of the file.
      reports: names of REPORTS.
    """

    config_file: str
    experiments: list[Experiment]
    reports: tuple[str, ...]


def read_sweep(
    config_file: str, config: ConfigDict, given: Mapping[str, Any], workdir: str
) -> Sweep:
    """The points of a sweep file and their commands.

    Args:
      config_file: PATH[:ARG], as --config has it.
      config: what get_config gave, with the fields of the command line.
      given: fields that the command line has set, field -> value; a point may set them again.
      workdir: of the sweep.
    """
    path, _, arg = config_file.partition(":")
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    if not hasattr(file, "get_sweep"):
        raise InputError(f"{path} has no get_sweep(): give a sweep file, see configs/sweeps.")
    reports = tuple(getattr(file, "REPORTS", ("table",)))
    if not set(reports) <= set(REPORTS):
        raise InputError(f"{path} has REPORTS {reports}: choose of {', '.join(REPORTS)}.")
    points = _distinct(_call(file.get_sweep, path, config, arg), path)
    probes = _call(file.get_probes, path, config, arg) if hasattr(file, "get_probes") else {}
    module = "fmrifm.pretrain" if "total_steps" in config else "fmrifm.probe"
    if probes and module == "fmrifm.probe":
        raise InputError(f"{path} has get_probes(), but its points are probes: leave it out.")
    experiments = []
    for name, overrides in points.items():
        place = str(Path(workdir) / name)
        commands = [command_line(module, config_file, place, {**given, **overrides})]
        for probe, settings in probes.items():
            settings = {"model": place, **settings}
            probe_file = settings.pop("config")
            target = str(Path(place) / "probes" / probe)
            commands.append(command_line("fmrifm.probe", probe_file, target, settings))
        experiments.append(Experiment(name, overrides, place, commands))
    return Sweep(config_file, experiments, reports)


def _call(function, path: str, config: ConfigDict, arg: str):
    """Calls a function of a sweep file with what it asks for."""
    known = {"config": config.copy_and_resolve_references(), "arg": arg}
    parameters = inspect.signature(function).parameters
    unknown = [x for x, p in parameters.items() if x not in known and p.default is p.empty]
    if unknown:
        raise InputError(
            f"{function.__name__}({', '.join(parameters)}) in {path} asks for '{unknown[0]}': it "
            "can have 'config' and 'arg'."
        )
    return function(**{name: known[name] for name in parameters if name in known})


def _distinct(points, path: str) -> dict[str, dict[str, Any]]:
    """Name -> overrides; a point that comes twice is one."""
    named: dict[str, dict[str, Any]] = {}
    if isinstance(points, Mapping) or not isinstance(points, Iterable):
        raise InputError(f"get_sweep() of {path} gives {points!r}: let it give dictionaries.")
    for point in points:
        if not isinstance(point, Mapping):
            raise InputError(f"A point of {path} is {point!r}: let get_sweep() give dictionaries.")
        point = flatten(point)
        name = name_of(point) or "base"
        if not re.fullmatch(r"\w[\w.+=-]*", name) or len(name) > _LONGEST:
            raise InputError(
                f"A point of {path} has the name '{name}', which makes no good directory: give it "
                f'a short "{NAME}" of letters, digits and . + - _.'
            )
        if _RESERVED.fullmatch(name):
            raise InputError(f"A point of {path} has the name '{name}', which is taken: rename it.")
        overrides = {field: value for field, value in point.items() if field != NAME}
        if named.setdefault(name, overrides) != overrides:
            raise InputError(
                f"Two points of {path} have the name '{name}' ({named[name]} and {overrides}): "
                f'give them a "{NAME}" each.'
            )
    if not named:
        raise InputError(f"get_sweep() of {path} gives no point: let it give dictionaries.")
    return named
