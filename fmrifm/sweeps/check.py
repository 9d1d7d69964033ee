"""Every point of a sweep is checked before the first one starts.

As the command would: flags are parsed, stores opened, mesh and batch made to fit the devices, and
the shapes of the model traced. This happens in a process of its own, since one that has touched the
accelerators would hold their memory while points run.
"""

import functools
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.evaluation.strategies import amid_training
from fmrifm.evaluation.suite import open_probe
from fmrifm.input.preprocess import cut_geometry
from fmrifm.model.files import ModelFiles
from fmrifm.published.open import open_model
from fmrifm.sweeps.command import read_config
from fmrifm.sweeps.sweep_file import Experiment
from fmrifm.trainer.checkpoint import find_checkpoint
from fmrifm.trainer.data import open_data
from fmrifm.trainer.experiment import Program
from fmrifm.trainer.origin import describe_data, hashed_subjects


def check_points(experiments: Sequence[Experiment], devices: int) -> None:
    """Checks points, with a progress bar.

    Args:
      devices: how many a point will have, where it runs elsewhere; 0 for those of this machine.

    Raises:
      InputError: names every point that cannot run, with the reason.
    """
    if not experiments:
        return
    context = multiprocessing.get_context("spawn")
    problems = []
    with ProcessPoolExecutor(1, context, _as_elsewhere, (devices,)) as pool:
        bar = functools.partial(tqdm, total=len(experiments), unit="point", desc="check")
        try:
            found = pool.map(_problem, [experiment.commands for experiment in experiments])
            for experiment, problem in zip(bar(experiments, disable=None), found, strict=True):
                if problem:
                    problems.append((experiment.name, problem))
        except BrokenProcessPool as error:
            raise InputError("The process that checks points was ended: free memory.") from error
    if problems:
        count = f"{len(problems)} of {len(experiments)} points"
        told = "\n".join(f"  {name}: {problem}" for name, problem in problems)
        raise InputError(f"{count} cannot run, so none was started:\n{told}")


def _as_elsewhere(devices: int) -> None:
    if devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)


def _problem(commands: list[list[str]]) -> str | None:
    """Why a point cannot run; None if it can."""
    try:
        run, *probes = commands
        config = read_config(run)
        if run[1] == "fmrifm.probe":
            _check_probe(config, _open(config.model))
            return None
        files = _check_pretraining(config)
        for probe in probes:
            _check_probe(read_config(probe), files)
    except (InputError, OSError) as error:
        return str(error)
    return None


def _check_pretraining(config: ConfigDict) -> ModelFiles:
    """The model that will be trained, without weights."""
    data = open_data(config)
    program = Program(config, data.geometry)
    program.train_batches(data)
    program.batch_shapes()
    for sources in data.evals.values():
        program.make_task(data.geometry)
        program.eval_batches(sources, data.geometry)
    if config.init_from and find_checkpoint(config.init_from) is None:
        _open(config.init_from)
    geometry = cut_geometry(data.geometry, config.model.patch)
    about = describe_data(config, data)
    files = ModelFiles(program.options, {}, geometry, about, [hashed_subjects(data)])
    if config.probe.every:
        _check_probe(amid_training(config.probe, "the model"), files)
    return files


def _check_probe(config: ConfigDict, files: ModelFiles) -> None:
    if "splits" not in config:  # a cohort finds its own
        open_probe(config, files)


@functools.lru_cache(maxsize=4)
def _open(model: str) -> ModelFiles:
    return open_model(model)
