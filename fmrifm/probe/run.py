"""Which model is probed, and when: once, the newest checkpoint of a run, or every one."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from data_tools.errors import InputError, describe_os_error
from fmrifm.model.files import ModelFiles
from fmrifm.probe.check_config import resolve_probe
from fmrifm.probe.results.results import Results, describe_results, main_metric
from fmrifm.probe.suite import open_probe, probe
from fmrifm.runs.checkpoint import find_checkpoint, list_steps, restore_meta
from fmrifm.runs.export import export_checkpoint
from fmrifm.runs.hold import hold
from fmrifm.runs.workdir import check_workdir

_POLL = 5.0  # seconds


def run_probes(config: ConfigDict, output: Path) -> None:
    """Probes as `config.run` says, and prints a table of each.

    Args:
      config: as in configs/probe.py. `once` opens config.model; `last` takes the newest checkpoint
        of the workdir that it names; `every` takes each checkpoint there, waits up to config.wait
        seconds for the next, and ends with the last step of the run.
      output: of `every`, each in step-00001000/ and so on; what is there is not made again.

    Raises:
      InputError: as `probe`, or the workdir has no checkpoint.
    """
    resolve_probe(config)
    if config.run == "every":
        _probe_every(config, output)
    else:
        files = None
        if config.run == "last":
            files = export_checkpoint(config.model)
            config = _of_step(config, files.step)
        _show(probe(config, output, files))


def config_during_training(
    get_config: Callable[[str], ConfigDict], settings: ConfigDict, model: str
) -> ConfigDict:
    """Builds the config of a probe that runs during pretraining.

    Args:
      get_config: of configs/probe.py; takes settings.task.
      settings: `probe` of a pretraining config.
      model: becomes config.model.
    """
    config = get_config(settings.task)
    config.model = model
    config.representations, config.baselines = tuple(settings.representations), ()
    config.data.update({name: settings[name] for name in ("train", "val", "test")})
    return config


def training_probe(
    get_config: Callable[[str], ConfigDict], settings: ConfigDict, workdir: Path, files: ModelFiles
) -> Callable[[ModelFiles], dict[str, float]]:
    """What probes a model amid its training.

    Args:
      get_config, settings: see `config_during_training`.
      workdir: of the run; results go to probes/ there.
      files: the model that will be trained; it needs no weights yet.

    Returns:
      A function of the model that gives its scores, {"probe/REPRESENTATION_HEAD/SPLIT/METRIC":
      value}, on the first process, and nothing on others. What it cannot do it says, and gives
      nothing, since no training should end for it.

    Raises:
      InputError: the settings make no sense, or the stores do not fit them or the model.
    """
    config = config_during_training(get_config, settings, str(workdir))
    open_probe(config, files)

    def scores(files: ModelFiles) -> dict[str, float]:
        try:
            return _scores(config, workdir, files)
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError):
                reason = describe_os_error(error)
            else:
                name = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                reason = f"{name}{error}"
            print(f"The model of step {files.step} was not probed: {reason}")
            return {}

    return scores


def _scores(config: ConfigDict, workdir: Path, files: ModelFiles) -> dict[str, float]:
    """The scores that `training_probe` returns, on the first process."""
    with tempfile.TemporaryDirectory() as cache:
        own = config.copy_and_resolve_references()
        # Weights of a step are never asked for again. Several processes must share a place.
        several = jax.process_count() > 1
        own.cache_dir = str(workdir / "probes" / "features") if several else cache
        output = workdir / "probes" / f"step-{files.step:08d}"
        results = probe(own, output, files, records=False)
        if several and jax.process_index() == 0:  # the others are done with them
            shutil.rmtree(own.cache_dir)
    if not results["results"]:
        return {}
    metric = main_metric(results)
    return {
        f"probe/{row['representation']}_{row['head']}/{name}/{metric}": figures[metric]["value"]
        for row in results["results"]
        for name, figures in ((n, split["metrics"]) for n, split in row["splits"].items())
        if metric in figures
    }


def _show(results: Results) -> None:
    if jax.process_index() == 0:
        print(describe_results(results))


def _probe_every(config: ConfigDict, output: Path) -> None:
    check_workdir(output)
    with hold(output):
        _probe_steps(config, output)


def _probe_steps(config: ConfigDict, output: Path) -> None:
    done, waited = set(), 0.0
    while True:
        new = [step for step in list_steps(config.model) if step not in done]
        for step in new:
            _probe_step(config, output / f"step-{step:08d}", step)
            done.add(step)
        if new:
            waited = 0.0
            continue
        if done and restore_meta(config.model)["config"]["total_steps"] <= max(done):
            return
        if waited >= config.wait:
            if not done:
                raise InputError(f"{config.model} holds no checkpoint: check the path or set wait.")
            return
        time.sleep(min(_POLL, config.wait - waited))
        waited += _POLL


def _probe_step(config: ConfigDict, output: Path, step: int) -> None:
    if (output / "results.json").is_file():
        print(f"{output} is there already.")
        return
    directory, _ = find_checkpoint(config.model)
    path = directory / str(step)
    try:
        files = export_checkpoint(path)
    except InputError:
        if not path.is_dir():  # the run keeps only its newest ones
            print(f"Step {step} of {config.model} was deleted before it could be probed.")
            return
        raise
    config = _of_step(config, step)
    if not config.cache_dir:
        config.cache_dir = str(output.parent / "features")
    print(f"Step {step}")
    _show(probe(config, output, files))


def _of_step(config: ConfigDict, step: int) -> ConfigDict:
    """The config with the name of a checkpoint as its model."""
    config = config.copy_and_resolve_references()
    directory, _ = find_checkpoint(config.model)
    config.model = str(directory / str(step))
    return config
