"""Makes a result table of finished runs: what differs between them, and their scores.

    python -m fmrifm.table --runs='runs/mask_*,runs/base_*' --output=DIR

takes workdirs of `fmrifm.pretrain`, with the probes in their probes/, or of `fmrifm.probe`. Runs
that differ only in their seed are one row. Prints DIR/table.md, beside which are table.tex,
table.csv, table.png, runs.csv with a line a run, and hparams/ for `tensorboard --logdir`.

    python -m fmrifm.table --runs='runs/*' --output=DIR --where='model.size=d3,optim.lr<=1e-3' \\
        --sort=-held_out/loss --reference='mask_ratio=0.9' --metrics='eval/*/loss,probe/sex/*'
"""

from pathlib import Path

from absl import flags

from data_tools.errors import kind_errors
from fmrifm.command_line import run
from fmrifm.runs.finished import CHECKPOINTS

RUNS = flags.DEFINE_list("runs", None, "Workdirs of finished runs, or globs.")
OUTPUT = flags.DEFINE_string("output", None, "Directory of what is written.")
WHERE = flags.DEFINE_string("where", "", "Runs that count: field=value,... or != < <= > >=; * too.")
SORT = flags.DEFINE_string("sort", "", "Fields and metrics; - before one: the largest first.")
REFERENCE = flags.DEFINE_string("reference", "", "The row others are compared with: field=value.")
METRICS = flags.DEFINE_list("metrics", "", "Names or patterns of scores; all that all runs have.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "auto",
    CHECKPOINTS,
    "Whose scores: the last one's, or the best one's (keep_best).",
)


def main(argv: list[str]) -> None:
    import jax

    from fmrifm.runs.finished import read_runs
    from fmrifm.table.choose import make_table
    from fmrifm.table.write_table import write_table

    jax.config.update("jax_platforms", "cpu")  # reads files only
    with kind_errors():
        runs, output = read_runs(RUNS.value, CHECKPOINT.value), Path(OUTPUT.value)
        table = make_table(runs, WHERE.value, SORT.value, REFERENCE.value, METRICS.value)
        print(write_table(table, output))
        print(f"Done. Outputs are in {OUTPUT.value}.")


if __name__ == "__main__":
    run(main, "runs", "output")
