"""Why a point cannot run: its commands are gone through up to the first step.

Flags are parsed, stores opened, mesh and batch made to fit the devices, and the shapes of the model
traced, as the commands themselves do.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from data_tools.errors import InputError, describe_os_error
from fmrifm.input.data import open_data
from fmrifm.model.files import ModelFiles
from fmrifm.probe.run import config_during_training
from fmrifm.probe.suite import open_probe
from fmrifm.published.open_model import open_model
from fmrifm.runs.checkpoint import find_checkpoint
from fmrifm.runs.export import describe_data, hashed_subjects
from fmrifm.runs.metrics_writer import check_wandb
from fmrifm.sweep.arguments import read_config
from fmrifm.trainer.program import Program


def find_problem(
    commands: list[list[str]], probe_config: Callable[[str], ConfigDict]
) -> str | None:
    """Checks the commands of a point.

    Args:
      commands: the pretraining or probe, then further probes of its model.
      probe_config: get_config of configs/probe.py, for probes during pretraining.

    Returns:
      Why they cannot run, in a sentence; None if they can.
    """
    try:
        run, *probes = commands
        config = read_config(run)
        if run[1] == "fmrifm.probe":
            _check_probe(config, _open(config.model))
            return None
        files = _check_pretraining(config, probe_config)
        for probe in probes:
            _check_probe(read_config(probe), files)
    except InputError as error:
        return str(error)
    except OSError as error:
        return describe_os_error(error)
    return None


def _check_pretraining(config: ConfigDict, probe_config: Callable[[str], ConfigDict]) -> ModelFiles:
    """The model that will be trained, without weights."""
    check_wandb(config.wandb_project)
    data = open_data(config)
    program = Program(config, data.geometry)
    program.train_batches(data)
    for sources in data.evals.values():
        program.eval_batches(sources, data.geometry)
    if config.init_from and find_checkpoint(config.init_from) is None:
        _open(config.init_from)
    about = describe_data(config, data)
    files = ModelFiles(program.options, {}, program.cut, about, [hashed_subjects(data)])
    if config.probe.every:
        _check_probe(config_during_training(probe_config, config.probe, "the model"), files)
    return files


def _check_probe(config: ConfigDict, files: ModelFiles) -> None:
    if "splits" not in config:  # a cohort finds its own
        open_probe(config, files)


@functools.lru_cache(maxsize=4)
def _open(model: str) -> ModelFiles:
    return open_model(model)
