"""Embeddings of runs, as a table: what the encoder says of each, beside what is known of it.

Letters: R runs, D width, W windows of a run, M tokens of a window.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_tools.convert import __main__ as conversion
from data_tools.convert.releases.bids import find_runs
from data_tools.errors import InputError, check_file_name
from data_tools.files.atomic import publish_file, write_bytes
from data_tools.inspect.facts import shown_runs
from data_tools.inspect.typical import far_from_typical, median_figures
from data_tools.reports.text_tables import as_csv
from data_tools.store import selection
from data_tools.timeseries.quality import frame_figures
from fmrifm.input.data import store_digests
from fmrifm.input.sources import Source, parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.probe.features.clip_encoder import ClipEncoder
from fmrifm.probe.features.encode import DTYPES, encode
from fmrifm.probe.features.representations import vector
from fmrifm.probe.samples.compatibility import check_compatible, clip_length
from fmrifm.probe.samples.samples import Samples, whole_runs
from fmrifm.published.open_model import open_model
from fmrifm.runs.hold import hold
from fmrifm.runs.provenance import record_start

_FIRST = ("key", "dataset", "subject", "session", "task", "run", "tr", "source_tr", "n_frames")
# Of a store, which say nothing of a run.
_LEFT_OUT = {"shard", "first_frame", "crc32", "qc"}
_RUNS_LOOKED_AT = 8
_BYTES_OF_A_VALUE = np.dtype(DTYPES["patch"]).itemsize
_MOST_TOKENS = 8 * 2**30  # bytes in OUTPUT/features, where a cohort's probe finds them

PathLike = str | os.PathLike


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """Runs and their embeddings.

    Attributes:
      runs: of each what the run table tells and may show, quality figures as qc_NAME, and how many
        windows it has and how many frames at its end fill none.
      cls_RxD: float32 class tokens, mean over windows; None of a model without.
      patch_RxD: float32, mean of all tokens with data.
      tokens: (W, M, D) float16 of each run; None unless they were asked for.
      has_data: (W, M) bool of each run, which tokens have any; None likewise.
      token_ids_M: where tokens are, counted over the full grid, slot by slot.
      starts: (W,) first frame of each window, of each run.
    """

    runs: list[dict[str, Any]]
    cls_RxD: np.ndarray | None
    patch_RxD: np.ndarray
    tokens: list[np.ndarray] | None
    has_data: list[np.ndarray] | None
    token_ids_M: np.ndarray
    starts: list[np.ndarray]


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
    known = is_store(inputs[0])
    found = open_runs(inputs, output, files) if known else find_runs(inputs)
    with hold(output):
        sources = found if known else _convert(found, inputs, output, files, list(convert))
        if with_tokens:
            _check_keys(sources)
        for remark in remarks(files, sources):
            print(f"NOTE: {remark}")
        asked = {"model": model, "input": list(inputs), "tokens": with_tokens}
        asked |= {"convert": list(convert), "windows": windows}
        record_start(output, asked, store_digests(source.store for source in sources))
        cache = output / "features"
        embedded = embed_runs(files, sources, cache, with_tokens, windows, _MOST_TOKENS)
        write_embeddings(output, embedded)
    return len(embedded.runs)


def _convert(
    found: Iterable, inputs: Sequence[str], output: Path, files: ModelFiles, convert: list[str]
) -> list[Source]:
    """The sources, those of an earlier conversion where it was of the same files."""
    store, note = output / "store", output / "converted.json"
    runs = [(path, path.stat()) for path in sorted({Path(run.path) for run in found})]
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


def open_runs(
    paths: Sequence[PathLike], store: Path, files: ModelFiles, flags: Sequence[str] = ()
) -> list[Source]:
    """The runs of stores, or of files, which are converted to a store first.

    Args:
      paths: stores, with queries; or files and trees.
      files: the model, whose TR it gets.
      flags: of `data_tools.convert`.
    """
    if is_store(paths[0]):
        return parse_sources(",".join(map(str, paths)))
    target = files.preprocessing.get("tr") or 1.0
    conversion.run(
        conversion.parse_args(
            [f"--output={store}", f"--target-tr={target:g}", *flags, "--input", *map(str, paths)]
        )
    )
    return parse_sources(str(store))


def is_store(path: PathLike) -> bool:
    """Whether a path, perhaps with a query, is that of a store."""
    return any(map(selection.is_store, (path, str(path).partition("?")[0])))


def embed_runs(
    files: ModelFiles,
    sources: Sequence[Source],
    cache: Path,
    with_tokens: bool = False,
    windows: int = 0,
    most_tokens: int = 0,
) -> Embedded:
    """Embeds every run of some stores.

    A run is cut into windows of the model's length, one after another; a shorter run is one window
    of the frames it has.

    Args:
      cache: directory for features, where a killed job goes on.
      with_tokens: whether all tokens are kept too.
      windows: at most so many of a run, evenly spread over it; 0 for all.
      most_tokens: bytes of tokens that may lie in the cache unasked, for a probe of the same clips.
    """
    sources, num_frames = list(sources), clip_length(files)
    samples = whole_runs(sources, num_frames, windows)
    places_M = ClipEncoder(files, sources).objective.places
    kinds = {"cls", "avg_patch", "has_data"}
    size = len(samples.clips) * len(places_M) * files.options.embed_dim * _BYTES_OF_A_VALUE
    kinds |= {"patch"} if with_tokens or size <= most_tokens else set()
    features = encode(files, sources, samples, kinds, cache, "runs")
    parts = [slice(*x) for x in zip(samples.first_S1[:-1], samples.first_S1[1:], strict=True)]
    return Embedded(
        runs=_known(sources, samples),
        cls_RxD=vector("cls", features, samples) if "cls" in features else None,
        patch_RxD=vector("avg_patch", features, samples),
        tokens=[features["patch"][part] for part in parts] if with_tokens else None,
        has_data=[np.asarray(features["has_data"][x]) for x in parts] if with_tokens else None,
        token_ids_M=places_M,
        starts=[samples.clips.start[part] for part in parts],
    )


def write_embeddings(output: Path, embedded: Embedded) -> None:
    """Writes embeddings.csv, a row a run, and tokens/KEY.npz where there are tokens."""
    if embedded.tokens is not None:
        for r, run in enumerate(tqdm(embedded.runs, "tokens", unit="run")):
            arrays = {
                "tokens": embedded.tokens[r],
                "has_data": embedded.has_data[r],
                "token_ids": embedded.token_ids_M,
                "start": embedded.starts[r],
            }
            (output / "tokens").mkdir(exist_ok=True)
            with publish_file(output / "tokens" / f"{run['key']}.npz") as file:
                np.savez(file, **arrays)
    names = list(dict.fromkeys([*_FIRST, *(name for run in embedded.runs for name in run)]))
    names = [name for name in names if any(name in run for run in embedded.runs)]
    parts = {"cls": embedded.cls_RxD, "patch": embedded.patch_RxD}
    parts = {name: x_RxD for name, x_RxD in parts.items() if x_RxD is not None}
    columns = [f"{name}_{d}" for name, x_RxD in parts.items() for d in range(x_RxD.shape[1])]
    lines = [[*names, *columns]]
    for r, run in enumerate(embedded.runs):
        values = [f"{value:.9g}" for x_RxD in parts.values() for value in x_RxD[r]]
        lines.append([*(run.get(name, "") for name in names), *values])
    write_bytes(output / "embeddings.csv", as_csv(lines).encode())


def remarks(files: ModelFiles, sources: Sequence[Source]) -> list[str]:
    """In what the input is unlike what the model was trained on, or unlike fMRI, in sentences."""
    told = check_compatible(files, list(sources), strict=False)
    for source in sources:
        step = max(1, -(-len(source.runs) // _RUNS_LOOKED_AT))
        figures = [frame_figures(source.store, int(run)) for run in source.runs[::step]]
        told += far_from_typical(median_figures(figures), source.store.tr)
    return told


def _check_keys(sources: Sequence[Source]) -> None:
    """Refuses keys that cannot name tokens/KEY.npz, before anything is computed."""
    seen = set()
    for key in (run["key"] for source in sources for run in source.lines):
        check_file_name(key, "--tokens names files by run, and the key")
        if key in seen:
            raise InputError(
                f"Run {key} is in two inputs, and --tokens names files by run: embed them apart."
            )
        seen.add(key)


def _known(sources: list[Source], samples: Samples) -> list[dict[str, Any]]:
    """What may be shown of each run."""
    shown = [shown_runs(source.store) for source in sources]
    first, clips = samples.first_S1, samples.clips
    found = []
    for start, stop in zip(first[:-1], first[1:], strict=True):
        run = shown[clips.source[start]][clips.run[start]]
        unused = run["n_frames"] - int(samples.n_frames_C[start:stop].sum())
        known = {name: value for name, value in run.items() if name not in _LEFT_OUT}
        known |= {"n_windows": int(stop - start), "unused_frames": unused}
        known |= {f"qc_{name}": value for name, value in (run.get("qc") or {}).items()}
        plain = {k: v for k, v in known.items() if not isinstance(v, list | dict)}
        found.append({k: "" if v is None else v for k, v in plain.items()})
    return found
