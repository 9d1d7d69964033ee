"""Frozen probes and baselines on labelled clips.

    python -m fmrifm.probe --config=configs/probe.py --workdir=DIR --config.model=MODEL \\
        --config.data.train=STORE --config.data.val=STORE --config.data.test=STORE

    python -m fmrifm.probe --config=configs/probe.py:task21 --workdir=DIR \\
        --config.data.folder=STORES [--config.data.parcels=STORES]

leaves results.json, results.csv and predictions_*.npz in DIR, and prints a table.
"""

from pathlib import Path

from ml_collections import config_flags

from data_tools.errors import kind_errors
from fmrifm.command_line import WORKDIR, run
from fmrifm.evaluation.suite import describe_results, probe
from fmrifm.trainer.checkpoint import quiet

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_config(arg).")


def main(argv: list[str]) -> None:
    quiet()
    with kind_errors():
        results = probe(CONFIG.value, Path(WORKDIR.value))
        print(describe_results(results))
        print(f"Done. Outputs are in {WORKDIR.value}.")


if __name__ == "__main__":
    run(main, "config", "workdir")
