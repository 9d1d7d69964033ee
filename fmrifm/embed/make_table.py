"""From a model and runs to a directory with their table of embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_tools.convert.releases.bids import find_runs
from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.embed.embedder import is_store, open_runs
from fmrifm.embed.embeddings import embed_runs, remarks, write_embeddings
from fmrifm.input.data import store_digests
from fmrifm.input.sources import Source
from fmrifm.model.files import ModelFiles
from fmrifm.probe.samples.compatibility import clip_length
from fmrifm.published.open_model import open_model
from fmrifm.runs.provenance import record_start

_MOST_TOKENS = 8 * 2**30  # bytes in OUTPUT/features, where a cohort's probe finds them


def make_table(
    model: str,
    inputs: Sequence[str],
    output: Path,
    with_tokens: bool = False,
    convert: Sequence[str] = (),
    windows: int = 0,
) -> int:
    """Embeds runs, and says aloud in what they are unlike the model's training data.

    Args:
      model: whatever `open_model` takes.
      inputs: stores with queries, or files and trees, which are converted to OUTPUT/store first.
      output: directory for embeddings.csv, provenance.json, and tokens/ where tokens are wanted.
      with_tokens: whether they are.
      convert: flags of `data_tools.convert`.
      windows: at most so many of a run are encoded, evenly spread over it; 0 for all.

    Returns:
      How many runs it has.

    Raises:
      InputError: there is no such model or input, they do not fit, or the output is a file.
    """
    files = open_model(model)
    clip_length(files)  # before anything is converted
    if windows < 0:
        raise InputError("--windows must be 0 (all of them) or more.")
    if output.is_file():
        raise InputError(f"{output} is a file: give a directory.")
    sources = _open(inputs, output, files, list(convert))
    for remark in remarks(files, sources):
        print(f"NOTE: {remark}")
    asked = {"model": model, "input": list(inputs), "tokens": with_tokens}
    asked |= {"convert": list(convert), "windows": windows}
    record_start(output, asked, store_digests(source.store for source in sources))
    embedded = embed_runs(files, sources, output / "features", with_tokens, windows, _MOST_TOKENS)
    write_embeddings(output, embedded)
    return len(embedded.runs)


def _open(
    inputs: Sequence[str], output: Path, files: ModelFiles, convert: list[str]
) -> list[Source]:
    """The sources, those of an earlier conversion where it was of the same files."""
    store, note = output / "store", output / "converted.json"
    if is_store(inputs[0]):
        return open_runs(inputs, store, files)
    runs = [(path, path.stat()) for path in sorted({Path(run.path) for run in find_runs(inputs)})]
    listed = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in runs]
    asked = {"flags": convert, "tr": files.preprocessing.get("tr"), "files": listed}
    if is_store(store):
        if note.is_file() and json.loads(note.read_text()) == asked:
            print(f"{store} is there already.")
            return open_runs([str(store)], store, files)
        print(f"{store} is of other files or flags: they are converted anew.")
        convert = [*convert, "--overwrite"]
    sources = open_runs(inputs, store, files, convert)
    write_bytes(note, json.dumps(asked).encode())
    return sources
