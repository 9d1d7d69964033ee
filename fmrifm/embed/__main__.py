"""Writes a table of embeddings, one row per run: of fMRIPrep output, of files, or of a store.

    python -m fmrifm.embed --model=MODEL --input=TREE --output=DIR

leaves embeddings.csv in DIR: what is known of each run (subject, session, task, TR, frames, quality
figures, columns of participants.tsv), then `cls_0` ... and `patch_0` ..., the class token and the
mean of all tokens, averaged over the run. --tokens adds tokens/KEY.npz. What is no store is
converted first, to DIR/store, as `data_tools.convert` does, whose flags --convert takes:

    ... --convert='--confounds=simple --highpass=0.01'

A large model may take seconds a clip without an accelerator: --windows=16 encodes 16 clips of each
run, evenly spread over it, in place of all.

Run again, it takes what is there, and goes on where it was killed. No network is touched but for a
model of the hub.
"""

import shlex
from pathlib import Path

from absl import flags

from data_tools.errors import kind_errors
from fmrifm.command_line import run

MODEL = flags.DEFINE_string("model", None, "Whatever fmrifm.from_pretrained takes.")
INPUT = flags.DEFINE_list("input", None, "Stores; or files and trees for data_tools.convert.")
OUTPUT = flags.DEFINE_string("output", None, "Directory for embeddings.csv.")
TOKENS = flags.DEFINE_bool("tokens", False, "Also tokens/KEY.npz, all tokens of each run.")
WINDOWS = flags.DEFINE_integer("windows", 0, "At most so many clips of a run; 0 for all.")
CONVERT = flags.DEFINE_string("convert", "", "Flags of data_tools.convert.")


def main(argv: list[str]) -> None:
    from fmrifm.embed.embeddings import make_table
    from fmrifm.runs.checkpoint import quiet

    del argv
    quiet()
    with kind_errors():
        output, convert = Path(OUTPUT.value), shlex.split(CONVERT.value)
        n = make_table(MODEL.value, INPUT.value, output, TOKENS.value, convert, WINDOWS.value)
        print(f"{n:,} runs: {output / 'embeddings.csv'}")


if __name__ == "__main__":
    run(main, "model", "input", "output")
