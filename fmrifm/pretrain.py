"""Pretrains a masked autoencoder on the runs of stores.

    python -m fmrifm.pretrain --config=configs/pretrain.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=held_out=STORE

The same command continues a run that was stopped or killed. On SIGTERM, SIGUSR1, Ctrl-C or after
--max_hours the run finishes its step, saves and exits with code 75; a second Ctrl-C ends it at
once (130). Code 76 means that a process was lost or no step finished: the same command continues.
In the end it prints how fast it was and where its time went.
"""

import sys

from absl import flags
from ml_collections import config_flags

import fmrifm
from data_tools.errors import kind_errors
from fmrifm.command_line import WORKDIR, join_processes, run

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_config(arg).")
ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Continue a run although its config or a store has changed."
)
PROFILE = flags.DEFINE_string(
    "profile", None, "START:COUNT: a JAX profile of COUNT steps from START on, in WORKDIR/profile."
)
MAX_HOURS = flags.DEFINE_float(
    "max_hours", None, "Save and exit with code 75 after so many hours, as after SIGTERM.", 0.0
)


def make_probe(*settings):
    """What `config.probe` asks for, see `training_probe`."""
    # Imported here: most runs have no probe, and scikit-learn takes seconds.
    from configs.probe import get_config
    from fmrifm.probe.run import training_probe

    return training_probe(get_config, *settings)


def main(argv: list[str]) -> None:
    from fmrifm.runs.checkpoint import quiet
    from fmrifm.trainer.loop import train

    quiet()
    join_processes()
    with kind_errors():
        sys.exit(
            train(
                CONFIG.value,
                WORKDIR.value,
                ALLOW_CHANGE.value,
                make_probe,
                PROFILE.value,
                fmrifm.IMPORTED,
                MAX_HOURS.value,
            )
        )


if __name__ == "__main__":
    run(main, "config", "workdir")
