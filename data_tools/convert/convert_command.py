"""The command line that all converters share: their flags, and what is done with them.

A converter finds the runs of a release (`raw_run`) and hands them over:

    parser = conversion_parser("data_tools.convert_hcp", "HCP young adult -> a store.")
    parser.add_argument("--input", ...)
    args = parse(parser, argv)
    with kind_errors():
        run_command(args, find_runs(args.input), tool="data_tools.convert_hcp")
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib

from data_tools.convert.conversion import Job, convert
from data_tools.convert.dry_run import print_sizes
from data_tools.convert.pseudonyms import read_salt
from data_tools.convert.raw_run import RunFiles
from data_tools.errors import InputError
from data_tools.readers.volume_run import is_volume
from data_tools.spaces.choose_space import read_space_map, space_provenance
from data_tools.store.reader import SKIPPED
from data_tools.timeseries.confounds import PRESETS
from data_tools.timeseries.recipe import CHAINS, MISSING, Recipe
from data_tools.timeseries.resampling import KINDS

_LISTS = ("--input", "--surfaces", "--roi", "--parcels", "--confounds", "--restricted")


def conversion_parser(
    tool: str, description: str, *, max_missing: float = 0.25
) -> argparse.ArgumentParser:
    """A parser with the flags that all converters have; `parse` reads a command line with it."""
    parser = argparse.ArgumentParser(f"python -m {tool}", description=description)
    add = parser.add_argument
    pair = {"nargs": 2, "metavar": ("LEFT", "RIGHT")}
    add("--output", required=True, type=Path, metavar="STORE", help="where the store shall appear")
    add("--dataset", help="name of the dataset, for the run table")
    add("--tr", type=float, help="seconds between frames, where the header is wrong or silent")
    add("--target-tr", type=float, default=1.0, help="the store's TR, 0 keeps (%(default)s)")
    add("--kind", choices=KINDS, default="pchip", help="how to resample in time (%(default)s)")
    add("--chain", choices=CHAINS, help="what to z-score (vertex; of other spaces pixel)")
    add("--missing", choices=MISSING, default="record", help="constant vertices (%(default)s)")
    add(
        "--max-missing", type=float, default=max_missing, help="refuse a larger share (%(default)s)"
    )
    add("--seconds", type=_seconds, default=":", metavar="START:STOP", help="part to keep")
    add("--min-frames", type=positive, default=16, help="refuse shorter runs (%(default)s)")
    add("--surfaces", **pair, help="flat surfaces, GIFTI (default: those that ship with us)")
    add("--roi", **pair, help="vertices to keep: GIFTI or MGZ, values above 0")
    add("--parcels", nargs="+", metavar="FILE", help="average parcels: .dlabel.nii, or LEFT RIGHT")
    add("--cortex", metavar="FILE", help="take volumes: labels or mask of the cortex in MNI152")
    add("--patch-size", type=positive, default=16, help="side of a patch in pixels (%(default)s)")
    presets = ", ".join(PRESETS)
    add(
        "--confounds",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"what to regress out: {presets}, or columns of the table of confounds (nothing)",
    )
    add("--highpass", type=float, metavar="HZ", help="take out slower fluctuations")
    add("--lowpass", type=float, metavar="HZ", help="take out faster fluctuations")
    add("--drop-dummies", type=_dummies, default=0, metavar="N", help="first frames, or 'auto' (0)")
    add("--pseudonymise", metavar="SALTFILE", help="replace subjects by hashes with this salt")
    add_shared_flags(parser)
    add("--dask", metavar="ADDRESS", help="scheduler to spread the work with, tcp://HOST:PORT")
    add(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="part I of N, from 0: see merge"
    )
    add("--strict", action="store_true", help="stop at the first run that cannot be converted")
    return parser


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of everything that makes a store."""
    add = parser.add_argument
    add(
        "--restricted",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="fields of the run table that reports, logs and models must not show",
    )
    add("--jobs", type=int, default=-1, help="processes, -1 for one a core (%(default)s)")
    add("--dry-run", action="store_true", help="list the runs and their size, write nothing")
    add("--overwrite", action="store_true", help="replace an earlier store")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads a command line, in which `--flag=A B` is two values of a flag that takes several."""
    lists = tuple(f"{name}=" for name in _LISTS)
    pieces = [
        piece
        for text in (sys.argv[1:] if argv is None else argv)
        for piece in (text.split("=", 1) if text.startswith(lists) else [text])
    ]
    return parser.parse_args(pieces)


def run_command(
    args: argparse.Namespace,
    runs: Sequence[RunFiles],
    *,
    tool: str,
    space: str | None = "fsLR-32k",
    dataset: str = "",
    restricted: Sequence[str] = (),
) -> None:
    """Converts the runs as the flags say, or lists them, and prints what came of it.

    Args:
      args: of `parse`, with the attribute `input`: a path, or several.
      runs: what the converter found.
      tool: name of the converter.
      space: that the runs are on, for which we have a flat map; not used with --surfaces,
        --parcels or --cortex.
      dataset: name for the run table, unless the user gives one.
      restricted: fields that must not be shown, whatever the user says.
    """
    files = {"parcels": args.parcels, "cortex": args.cortex}
    files |= {"surfaces": args.surfaces, "roi": args.roi, "space": space}
    space_map = read_space_map(**files, patch_size=args.patch_size)
    _check_volumes(runs, args.cortex)
    recipe = _recipe(args, args.chain or space_map.default_chain)
    job = Job(
        space_map,
        recipe,
        args.dataset or dataset,
        read_salt(args.pseudonymise) if args.pseudonymise else None,
    )
    hidden = words(args.restricted)
    _check_fields(hidden, runs)
    if args.dry_run:
        print_sizes(runs, job, args.output, shard=args.shard, jobs=args.jobs)
        return
    inputs = [args.input] if isinstance(args.input, str | Path) else args.input
    with _spread(args.dask):
        store, skipped = convert(
            runs,
            args.output,
            job,
            provenance={
                "tool": tool,
                # Names without directories, which say little elsewhere; of people none.
                "input": None if job.pseudonyms else [Path(x).resolve().name for x in inputs],
                "pseudonymised": job.pseudonyms is not None,
                **space_provenance(**files, names=job.pseudonyms is None),
            },
            restricted=[*restricted, *hidden],
            shard=args.shard,
            jobs=args.jobs,
            overwrite=args.overwrite,
            strict=args.strict,
        )
    if store is None:
        print(f"{args.output}: no run of this shard could be converted; merge will list them.")
        return
    print(
        f"{store.path}: {store.meta['n_frames']:,} frames of {store.tr:g} s, "
        f"{store.geometry.n_patches} patches, runs: {len(store.runs)}"
    )
    if skipped:
        print(f"Runs skipped: {len(skipped)}, see {store.path / SKIPPED}")


def _check_fields(names: Sequence[str], runs: Sequence[RunFiles]) -> None:
    """Refuses to restrict a column that is not there: the one that is meant would stay open."""
    known = {"dataset", "session", "task", "events", "confounds"}.union(
        *(run.fields for run in runs)
    )
    if unknown := sorted(set(names) - known):
        raise InputError(
            f"No run has a field '{unknown[0]}' to restrict: choose of {', '.join(sorted(known))}."
        )


def _check_volumes(runs: Sequence[RunFiles], cortex: str | None) -> None:
    """Refuses surface runs where volumes are asked for."""
    if cortex is not None and not all(is_volume(run.path) for run in runs):
        raise InputError(
            "These runs are on the surface and --cortex is for volumes: leave it out, or give "
            "volumes in MNI152 space to data_tools.convert or convert_hcp."
        )


def _recipe(args: argparse.Namespace, chain: str) -> Recipe:
    return Recipe(
        chain=chain,
        kind=args.kind,
        target_tr=args.target_tr,
        tr=args.tr,
        missing=args.missing,
        max_missing=args.max_missing,
        seconds=args.seconds,
        min_frames=args.min_frames,
        confounds=tuple(words(args.confounds)),
        highpass=args.highpass,
        lowpass=args.lowpass,
        drop_dummies=args.drop_dummies,
    )


@contextlib.contextmanager
def _spread(address: str | None) -> Iterator[None]:
    """Work of joblib goes to a Dask cluster, if an address is given."""
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--dask needs Dask: pip install 'fmrifm[dask]'.") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address} ({error}): check the address, such as "
            "tcp://HOST:8786."
        ) from error
    with client, joblib.parallel_config("dask", wait_for_workers_timeout=60):
        yield


def words(values: Sequence[str]) -> list[str]:
    """ "A,B" is two values, as "A B" is."""
    return [word for value in values for word in value.split(",") if word]


def _seconds(text: str) -> tuple[float, float]:
    """ "START:STOP" in seconds, either may be left out: ":600" is the first ten minutes."""
    start, colon, stop = text.partition(":")
    with contextlib.suppress(ValueError):
        if colon:
            return float(start or 0), float(stop or math.inf)
    raise argparse.ArgumentTypeError(f"{text} is not START:STOP in seconds, such as 30:600")


def positive(text: str) -> int:
    """A number of 1 or more on a command line."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")


def _dummies(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"{text} is neither 'auto' nor a number of frames")


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts):
        return int(part), int(parts)
    raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 0 to N - 1, such as 0/8")
