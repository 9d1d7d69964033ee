"""Turns a store into tar shards of the published forms.

    python -m data_tools.export_webdataset STORE --output=DIR --form=newer

leaves DIR/NAME-00000.tar, ... as the releases CortexMAE (`newer`: with the mean and the standard
deviation before z-scoring, which the store must have) and fmri-fm (`older`: with the mask) read
them; values are the same bits. The same store gives the same bytes.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tqdm
from scipy import sparse

from data_tools.errors import InputError, check_file_name, kind_errors
from data_tools.files.atomic import publish_directory
from data_tools.flags import command_parser, positive
from data_tools.published.webdataset import FIELDS, FORMS
from data_tools.store.checks import SET_BY_WRITER
from data_tools.store.reader import Store
from data_tools.store.selection import Selection, open_selection

_NAMES = {ours: theirs for theirs, ours in FIELDS.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.export_webdataset", __doc__)
    add = parser.add_argument
    add("store", metavar="STORE", help="a store, also as STORE?field=pattern")
    add("--output", required=True, type=Path, metavar="DIR", help="directory to make")
    add("--form", choices=tuple(FORMS), default="newer", help="of which release (%(default)s)")
    add("--runs-per-shard", type=positive, default=8, metavar="N", help="(%(default)s)")
    add("--prefix", help="of the names of shards (the store's name)")
    args = parser.parse_args(argv)
    with kind_errors():
        selection = open_selection(args.store)
        _check(selection, args)
        prefix = args.prefix or selection.store.name
        with publish_directory(args.output) as directory:
            n_shards = write_shards(selection, directory, args.form, args.runs_per_shard, prefix)
        print(f"{args.output}: {len(selection.runs)} runs in {n_shards} shards.")
        if shown := sorted(selection.store.restricted):
            print(f"The shards hold fields that others must not see: {', '.join(shown)}.")
        geometry = selection.store.geometry
        if geometry.columns is not None and geometry.width > geometry.n_pixels:
            print(
                f"The store holds {geometry.n_pixels:,} of {geometry.width:,} columns; the others "
                "are 0 in the shards."
            )


def write_shards(
    selection: Selection, directory: Path, form: str, runs_per_shard: int, prefix: str
) -> int:
    """Writes runs of a store to `directory/PREFIX-00000.tar` and so on.

    Args:
      selection: the runs.
      directory: where to; it exists.
      form: "older" or "newer", see `webdataset`.
      runs_per_shard: most runs of a shard.
      prefix: of the names.

    Returns:
      The number of shards.
    """
    shards = range(0, len(selection.runs), runs_per_shard)
    with tqdm.tqdm(total=len(selection.runs), desc="export", unit="run") as progress:
        for number, first in enumerate(shards):
            with tarfile.open(directory / f"{prefix}-{number:05d}.tar", "w") as archive:
                for run in selection.runs[first : first + runs_per_shard]:
                    _write(archive, selection.store, int(run), form)
                    progress.update()
    return len(shards)


def _write(archive: tarfile.TarFile, store: Store, run: int, form: str) -> None:
    """Adds a run to an open tar: with its mask in the older form, with its scale in the newer."""
    line, geometry = store.runs[run], store.geometry
    # What the store says of itself, and what is in other members, is no metadata.
    dropped = SET_BY_WRITER | {"key", "events", "missing", "source"}
    meta = {_NAMES.get(name, name): value for name, value in line.items() if name not in dropped}
    meta["n_frames"] = line["n_frames"]
    if store.missing(run) is not None:
        lost = np.zeros(geometry.patch_mask.shape, bool)
        lost.reshape(-1)[store.missing(run)] = True
        meta["missing"] = np.flatnonzero(geometry.to_columns(lost)).tolist()
    members = {
        "meta.json": json.dumps(meta, sort_keys=True).encode(),
        "events.json": json.dumps(line.get("events") or [], sort_keys=True).encode(),
        "bold.npy": _npy(geometry.to_columns(store.read(run, 0, line["n_frames"]))),
    }
    if form == "older":
        buffer = io.BytesIO()
        sparse.save_npz(buffer, sparse.coo_matrix(geometry.mask), compressed=False)
        members["mask.npz"] = buffer.getvalue()
    elif store.has_scale:
        mean, std = map(geometry.to_columns, store.scale(run))
        members |= {"mean.npy": _npy(mean), "std.npy": _npy(std)}
    for suffix, data in members.items():
        # No owner and no time: the same run gives the same bytes.
        info = tarfile.TarInfo(f"{line['key']}.{suffix}")
        info.size, info.mode = len(data), 0o644
        archive.addfile(info, io.BytesIO(data))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _check(selection: Selection, args: argparse.Namespace) -> None:
    store = selection.store
    if args.output.exists():
        raise InputError(f"{args.output} exists already: choose another path or delete it.")
    if args.form == "newer" and not store.has_scale:
        raise InputError(
            f"{store.path} does not hold the mean and standard deviation before z-scoring, which "
            "the newer form has: convert the runs with --chain=pixel, or give --form=older."
        )
    # Frames must be images whose valid pixels in raster order are the columns.
    is_flat_map = store.geometry.columns is None and 1 not in store.geometry.mask.shape
    if args.form == "older" and not is_flat_map:
        raise InputError(
            f"{store.path} is no flat map, and the older form is of flat maps: give --form=newer."
        )
    if args.prefix:
        check_file_name(args.prefix, "--prefix")
    for run in selection.lines:
        check_file_name(run["key"], "The run key")
        if "." in run["key"]:
            raise InputError(
                f"The key {run['key']} holds '/' or '.', which names in shards cannot: rename the "
                "run."
            )


if __name__ == "__main__":
    main()
