"""Runs every point of a sweep file, each in a directory of its own.

    python -m fmrifm.sweep --config=configs/sweeps/mask_ratio.py --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE [--jobs=2]

runs the points on this machine, `--launcher=slurm` on a cluster, and `--launcher=print` shows the
commands. All points are checked first. The same command goes on with a sweep that was stopped or
killed and tries again what failed, `--only=failed` that alone. `--workdir=DIR --status` shows how
far a sweep is, and `--reproduce=RUN` the command that repeats a run.
"""

import fnmatch
import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from configs.probe import get_config
from data_tools.errors import InputError, kind_errors
from fmrifm.command_line import WORKDIR, run
from fmrifm.sweep.arguments import quote
from fmrifm.sweep.check import check_points
from fmrifm.sweep.ledger import DONE, FAILED, Ledger, launching, open_ledger
from fmrifm.sweep.local import launch_local, share_of_gpus
from fmrifm.sweep.slurm import CLUSTERS, parse_settings, submit
from fmrifm.sweep.status import (
    all_done,
    describe_failures,
    describe_sweep,
    make_reports,
    show_status,
)
from fmrifm.sweep.sweep_file import Sweep, read_sweep

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_sweep().")
LAUNCHER = flags.DEFINE_enum("launcher", "local", ("local", "slurm", "print"), "Where points run.")
JOBS = flags.DEFINE_integer("jobs", 0, "Points at a time; local: 1 by default, slurm: all.", 0)
DEVICES = flags.DEFINE_integer("devices", 0, "Devices of a point; checks are made for these.", 0)
ONLY = flags.DEFINE_string("only", None, "Points to run: names or patterns, or `failed`.")
STATUS = flags.DEFINE_bool("status", False, "Show how far the sweep in --workdir is.")
REPRODUCE = flags.DEFINE_string("reproduce", None, "A run: print the command that repeats it.")
SLURM = flags.DEFINE_string("slurm", "", "Settings of jobs: partition=gpu,gpus_per_node=8,....")
CLUSTER = flags.DEFINE_enum("cluster", "slurm", CLUSTERS, "submitit's executor, to try it out.")


def main(argv: list[str]) -> None:
    with kind_errors():
        if REPRODUCE.value:
            from fmrifm.sweep.reproduce import reproduce

            print(reproduce(Path(REPRODUCE.value)))
        elif not WORKDIR.value:
            raise InputError("Give --workdir=DIR, where the sweep lives.")
        elif STATUS.value:
            show_status(Ledger(WORKDIR.value))
        elif CONFIG.value is None:
            raise InputError("Give --config=FILE, a sweep file such as those in configs/sweeps.")
        else:
            sys.exit(_launch())


def _launch() -> int:
    """Runs the sweep of the command line; returns the exit code."""
    flag = flags.FLAGS["config"]
    given = config_flags.get_override_values(flag)
    name = config_flags.get_config_filename(flag)
    if "://" in WORKDIR.value:
        raise InputError(f"--workdir={WORKDIR.value}: a sweep lives in a directory, so give one.")
    sweep = read_sweep(name, CONFIG.value, given, WORKDIR.value)
    names = _choose(sweep)
    todo = [experiment for experiment in sweep.experiments if experiment.name in names]
    jobs = JOBS.value or 1
    local = LAUNCHER.value == "local"
    environment = share_of_gpus(0, jobs) if local else {}
    check_points(todo, DEVICES.value, environment, get_config)
    if LAUNCHER.value == "print":
        for experiment in todo:
            print("\n".join(quote(command) for command in experiment.commands))
        return 0
    with launching(WORKDIR.value):
        ledger = open_ledger(sweep, WORKDIR.value)
        if LAUNCHER.value == "slurm":
            settings = parse_settings(SLURM.value)
            submitted = submit(ledger, names, settings, CLUSTER.value, JOBS.value)
            left = len(names) - len(submitted)
            told = f" ({left} points are in line or at work already)" if left else ""
            print(f"{len(submitted)} jobs submitted{told}; --status shows how far they are.")
            return 0
        ended = launch_local(ledger, names, jobs)
    print(describe_sweep(ledger, ledger.states()))
    if all_done(ledger):
        make_reports(ledger)
    if not ended:
        print("Stopped; the same command continues.", file=sys.stderr)
        return os.EX_TEMPFAIL
    failures = describe_failures(ledger)
    if failures:
        print(
            f"{failures}\nThe same command with --only=failed tries these again.", file=sys.stderr
        )
        return 1
    return 0


def _choose(sweep: Sweep) -> list[str]:
    """The points to run: what is not done, of those that were asked for."""
    stages = {experiment.name: len(experiment.commands) for experiment in sweep.experiments}
    there = (Path(WORKDIR.value) / "sweep.json").exists()
    states = Ledger(WORKDIR.value).states() if there else {}
    names = list(stages)
    if ONLY.value:
        patterns = [pattern.strip() for pattern in ONLY.value.split(",")]
        failed = [x for x in names if x in states and states[x]["status"] == FAILED]
        names = [x for x in names if any(fnmatch.fnmatchcase(x, pattern) for pattern in patterns)]
        if "failed" in patterns:
            names += [name for name in failed if name not in names]
        if not names and patterns == ["failed"]:
            print("No point has failed.")
        elif not names:
            raise InputError(f"--only={ONLY.value} names no point: see --status for the names.")
    done = {
        name
        for name, state in states.items()
        if state["status"] == DONE and len(state["done"]) >= stages.get(name, 0)
    }
    return [name for name in names if name not in done]


if __name__ == "__main__":
    run(main)
