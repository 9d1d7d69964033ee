"""A table of embeddings, a row a run: of fMRIPrep's output, of files, or of a store.

    python -m fmrifm.embed --model=MODEL --input=TREE --output=DIR

leaves embeddings.csv in DIR: what is known of each run (subject, session, task, TR, frames, quality
figures, columns of participants.tsv), then `cls_0` ... and `patch_0` ..., the class token and the
mean of all tokens, averaged over the run. --tokens adds tokens/KEY.npz. What is no store is
converted first, to DIR/store, as `data_tools.convert` does, whose flags --convert takes:

    ... --convert='--confounds=simple --highpass=0.01'

Run again, it takes what is there, and goes on where it was killed. No network is touched.
"""

import json
import shlex
from pathlib import Path

from absl import flags

from data_tools.errors import InputError, kind_errors
from data_tools.files import write_bytes
from data_tools.releases.bids import find_runs
from fmrifm.command_line import run
from fmrifm.evaluation.embedder import is_store, open_runs
from fmrifm.evaluation.embedding import embed_runs, remarks, write_embeddings
from fmrifm.model.files import ModelFiles
from fmrifm.published.open import open_model
from fmrifm.trainer.checkpoint import quiet

MODEL = flags.DEFINE_string("model", None, "Whatever fmrifm.from_pretrained takes.")
INPUT = flags.DEFINE_list("input", None, "Stores; or files and trees for data_tools.convert.")
OUTPUT = flags.DEFINE_string("output", None, "Directory for embeddings.csv.")
TOKENS = flags.DEFINE_bool("tokens", False, "Also tokens/KEY.npz, all tokens of each run.")
CONVERT = flags.DEFINE_string("convert", "", "Flags of data_tools.convert.")


def embed(
    model: str, inputs: list[str], output: Path, with_tokens: bool = False, convert: str = ""
) -> int:
    """Writes the table, and says aloud in what the input is unlike the model's.

    Returns:
      How many runs it has.

    Raises:
      InputError: there is no such model or input, they do not fit, or DIR holds other things.
    """
    files = open_model(model)
    if files.options.num_frames is None or files.options.in_chans != 1:
        raise InputError(f"{model} is a model of images, not of clips of brain activity.")
    if output.is_file():
        raise InputError(f"{output} is a file: give a directory.")
    sources = _open(inputs, output, files, shlex.split(convert))
    for remark in remarks(files, sources):
        print(f"NOTE: {remark}")
    output.mkdir(parents=True, exist_ok=True)
    embedded = embed_runs(files, sources, output / "features", with_tokens)
    write_embeddings(output, embedded)
    return len(embedded.runs)


def _open(inputs: list[str], output: Path, files: ModelFiles, convert: list[str]):
    """The sources, those of an earlier conversion where it was of the same files."""
    store, note = output / "store", output / "converted.json"
    if is_store(inputs[0]):
        return open_runs(inputs, store, files)
    asked = {"flags": convert, "tr": files.preprocessing.get("tr"), "files": _listed(inputs)}
    if is_store(store):
        if note.is_file() and json.loads(note.read_text()) == asked:
            print(f"{store} is there already.")
            return open_runs([str(store)], store, files)
        print(f"{store} is of other files or flags: they are converted anew.")
        convert = [*convert, "--overwrite"]
    sources = open_runs(inputs, store, files, convert)
    write_bytes(note, json.dumps(asked).encode())
    return sources


def _listed(inputs: list[str]) -> list[list]:
    """Path, size and time of change of every run."""
    paths = sorted({Path(run.path) for run in find_runs(inputs)})
    return [[str(x), x.stat().st_size, x.stat().st_mtime_ns] for x in paths]


def main(argv: list[str]) -> None:
    del argv
    quiet()
    with kind_errors():
        n = embed(MODEL.value, INPUT.value, Path(OUTPUT.value), TOKENS.value, CONVERT.value)
        print(f"{n:,} runs: {Path(OUTPUT.value) / 'embeddings.csv'}")


if __name__ == "__main__":
    run(main, "model", "input", "output")
