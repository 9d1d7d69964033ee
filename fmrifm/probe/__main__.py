"""Trains probes on the frozen features of a model, and on baselines beside them.

    python -m fmrifm.probe --config=configs/probe.py --workdir=DIR --config.model=MODEL \\
        --config.data.train=STORE --config.data.val=STORE --config.data.test=STORE

    python -m fmrifm.probe --config=configs/probe.py:task21 --workdir=DIR \\
        --config.data.folder=STORES [--config.data.parcels=STORES]

leaves results.json, results.csv and predictions_*.npz in DIR, and prints a table. With
--config.run=every each checkpoint of a pretrain workdir is probed as it appears.

    python -m fmrifm.probe --config=configs/cohort.py --workdir=DIR --config.model=MODEL \\
        --config.data.path=STORE --config.target=table:diagnoses.csv:diagnosis

takes training and test sets from one small study, asks of confounds too, and leaves report.html.

    python -m fmrifm.probe --compare=DIR,DIR,... --workdir=DIR

merges what is in such directories: table.md, table.csv, table.png, and curves over checkpoints.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from data_tools.errors import InputError, kind_errors
from fmrifm.command_line import WORKDIR, join_processes, run

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_config(arg).")
COMPARE = flags.DEFINE_list("compare", None, "Directories of probes, or globs, to merge.")


def main(argv: list[str]) -> None:
    import jax

    from fmrifm.probe.cohort.run_cohort import run_cohort
    from fmrifm.probe.results.compare import compare
    from fmrifm.probe.results.results import describe_results
    from fmrifm.probe.run import run_probes
    from fmrifm.runs.checkpoint import quiet

    quiet()
    join_processes()
    with kind_errors():
        if COMPARE.value:
            print(compare(COMPARE.value, Path(WORKDIR.value)))
        elif CONFIG.value is None:
            raise InputError("Give --config=configs/probe.py, or --compare=DIR,DIR.")
        elif "splits" in CONFIG.value:  # one set to take them from
            print(describe_results(run_cohort(CONFIG.value, Path(WORKDIR.value))))
        else:
            run_probes(CONFIG.value, Path(WORKDIR.value))
        if jax.process_index() == 0:
            print(f"Done. Outputs are in {WORKDIR.value}.")


if __name__ == "__main__":
    run(main, "workdir")
