"""Which model is probed, and when: once, the newest checkpoint of a run, or every one."""

import time
from pathlib import Path

from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.evaluation.choices import check_choices
from fmrifm.evaluation.results import describe_results
from fmrifm.evaluation.suite import probe
from fmrifm.trainer.checkpoint import find_checkpoint, list_steps, restore_meta
from fmrifm.trainer.export import export_checkpoint

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
    check_choices(config)
    if config.run == "once":
        print(describe_results(probe(config, output)))
    elif config.run == "last":
        print(describe_results(probe(config, output, export_checkpoint(config.model))))
    else:
        _probe_every(config, output)


def _probe_every(config: ConfigDict, output: Path) -> None:
    done, waited = set(), 0.0
    while True:
        new = [step for step in list_steps(config.model) if step not in done]
        for step in new:
            _probe_step(config, output / f"step-{step:08d}", step)
            done.add(step)
        if new:
            waited = 0.0
            continue
        if done and _is_over(config.model, max(done)):
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
    config = config.copy_and_resolve_references()
    config.model = str(path)
    if not config.cache_dir:
        config.cache_dir = str(output.parent / "features")
    print(f"Step {step}")
    print(describe_results(probe(config, output, files)))


def _is_over(model: str, step: int) -> bool:
    return restore_meta(model)["config"]["total_steps"] <= step
