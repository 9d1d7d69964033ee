"""Turns surface runs into a store.

    python -m data_tools.convert --input=PATH [PATH ...] --output=STORE

A path is a CIFTI `.dtseries.nii`, one or both files of a left/right pair of GIFTI or FreeSurfer MGZ
time series, or a BIDS-like tree that is searched for such files. The work is spread over processes,
run by run; a killed conversion goes on where it stopped. A run that cannot be converted is skipped
with its reason (see `conversion`).
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tools.bids import find_runs
from data_tools.chain import CHAINS, MISSING, Recipe
from data_tools.conversion import convert, skipped_path
from data_tools.errors import kind_errors
from data_tools.flatmap import fsaverage5_surfaces, read_flat_map
from data_tools.preprocess import KINDS


def parse_seconds(text: str) -> tuple[float, float]:
    """ "START:STOP" in seconds, either may be left out: ":600" is the first ten minutes."""
    start, colon, stop = text.partition(":")
    try:
        if colon:
            return float(start or 0), float(stop or math.inf)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not START:STOP in seconds, such as 30:600")


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m data_tools.convert", description="Turns surface fMRI runs into a store."
    )
    add = parser.add_argument
    pair = {"nargs": 2, "metavar": ("LEFT", "RIGHT")}
    add("--input", nargs="+", required=True, metavar="PATH", help="runs, or trees to search")
    add("--output", required=True, type=Path, metavar="STORE", help="where the store shall appear")
    add("--tr", type=float, help="seconds between frames, where the header is wrong or silent")
    add("--target-tr", type=float, default=1.0, help="the store's TR, 0 keeps (%(default)s)")
    add("--kind", choices=KINDS, default="pchip", help="how to resample in time (%(default)s)")
    add("--chain", choices=CHAINS, default="vertex", help="what to z-score (%(default)s)")
    add("--missing", choices=MISSING, default="record", help="constant vertices (%(default)s)")
    add("--max-missing", type=float, default=0.25, help="refuse a larger share (%(default)s)")
    add("--seconds", type=parse_seconds, default=":", metavar="START:STOP", help="part to keep")
    add("--min-frames", type=_positive, default=16, help="refuse shorter runs (%(default)s)")
    add("--surfaces", **pair, help="flat surfaces, GIFTI (fsaverage5)")
    add("--roi", **pair, help="vertices to keep: GIFTI or MGZ, values above 0")
    add("--patch-size", type=_positive, default=16, help="side of a patch in pixels (%(default)s)")
    add("--dataset", default="", help="name of the dataset, for the run table")
    add("--jobs", type=int, default=-1, help="processes, -1 for one a core (%(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier store")
    add("--strict", action="store_true", help="stop at the first run that cannot be converted")
    return parser.parse_args(_split_lists(sys.argv[1:] if argv is None else argv))


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")


def _split_lists(argv: Sequence[str]) -> list[str]:
    """argparse takes only one value from `--input=A B`; as `--input A B` it takes both."""
    lists = ("--input=", "--surfaces=", "--roi=")
    return [
        piece
        for text in argv
        for piece in (text.split("=", 1) if text.startswith(lists) else [text])
    ]


def _provenance(args: argparse.Namespace) -> dict[str, Any]:
    """What the store was made from: names without directories, which say little elsewhere."""

    def checksums(paths: Sequence[str] | None) -> list[dict[str, str]] | None:
        return paths and [
            {"file": Path(path).name, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
            for path in paths
        ]

    return {
        "tool": "data_tools.convert",
        "input": [Path(item).absolute().name for item in args.input],
        "surfaces": checksums(args.surfaces or fsaverage5_surfaces()),
        "roi": checksums(args.roi) or (None if args.surfaces else "data/fsaverage5_cortex.npz"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_args(argv)
    with kind_errors():
        recipe = Recipe(
            chain=args.chain,
            kind=args.kind,
            target_tr=args.target_tr,
            tr=args.tr,
            missing=args.missing,
            max_missing=args.max_missing,
            seconds=args.seconds,
            min_frames=args.min_frames,
        )
        flat_map = read_flat_map(args.surfaces, args.roi, args.patch_size)
        store, skipped = convert(
            find_runs(args.input, flat_map.geometry.space.removeprefix("flat-")),
            args.output,
            flat_map,
            recipe,
            dataset=args.dataset,
            provenance=_provenance(args),
            jobs=args.jobs,
            overwrite=args.overwrite,
            strict=args.strict,
        )
        print(
            f"{store.path}: {store.meta['n_frames']:,} frames of {store.tr:g} s, "
            f"{store.geometry.n_patches} patches, runs: {len(store.runs)}"
        )
        if skipped:
            print(f"Runs skipped: {len(skipped)}, see {skipped_path(args.output)}")


if __name__ == "__main__":
    main()
