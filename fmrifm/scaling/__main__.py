"""Fits scaling laws to finished pretraining runs.

    python -m fmrifm.scaling --runs='runs/frames/*' --output=laws

fits L = (N/a)^b and L = E + (N/a)^b to the losses of every evaluation set, where N is the number
of distinct training frames, of encoder parameters, or the FLOPs of training, as the runs vary it.
It leaves fit.json, table.md, scaling.png and, where budgets have several model sizes,
iso_flop.png. Tables of points can be fitted, too: `--runs=points.csv` with the columns frames (or
params, or flops), set and loss.
"""

from pathlib import Path

from absl import flags

from data_tools.errors import kind_errors
from fmrifm.command_line import run
from fmrifm.runs.finished import CHECKPOINTS

RUNS = flags.DEFINE_list("runs", None, "Workdirs of finished runs, globs, or tables (.csv).")
OUTPUT = flags.DEFINE_string("output", None, "Directory of what is written.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "auto", CHECKPOINTS, "Of each run; auto: the best where it has keep_best."
)
SEED = flags.DEFINE_integer("seed", 0, "Of the intervals.")
TITLE = flags.DEFINE_string("title", "", "Of the table and the pictures.")


def main(argv: list[str]) -> None:
    import jax

    from fmrifm.scaling.fit_scaling import fit_scaling

    jax.config.update("jax_platforms", "cpu")  # accelerators are for training
    with kind_errors():
        output = Path(OUTPUT.value)
        print(fit_scaling(RUNS.value, output, CHECKPOINT.value, SEED.value, TITLE.value))
        print(f"The fits are in {output}.")


if __name__ == "__main__":
    run(main, "runs", "output")
