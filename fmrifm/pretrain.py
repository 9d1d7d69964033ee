"""MAE pretraining.

    python -m fmrifm.pretrain --config=configs/pretrain.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

The same command continues a run that was stopped or killed. On SIGTERM or SIGUSR1 the run finishes
its step, saves and exits with code 75.
"""

import sys

import jax
from absl import flags
from ml_collections import config_flags

from data_tools.errors import kind_errors
from fmrifm.command_line import WORKDIR, run
from fmrifm.trainer.checkpoint import quiet
from fmrifm.trainer.loop import train

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_config(arg).")
ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Continue a run although its config or a store has changed."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several, found from the cluster (TPU pod, SLURM, MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if not found.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, with --coordinator.")


def main(argv: list[str]) -> None:
    quiet()
    if DISTRIBUTED.value or COORDINATOR.value:
        # Before anything touches a device.
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    with kind_errors():
        sys.exit(train(CONFIG.value, WORKDIR.value, ALLOW_CHANGE.value))


if __name__ == "__main__":
    run(main, "config", "workdir")
