"""The command line that all converters share.

A converter finds the runs of a release (`raw_run`) and hands them over:

    parser = conversion_parser("data_tools.convert_hcp", "HCP young adult -> a store.")
    parser.add_argument("--input", ...)
    args = parse(parser, argv)
    with kind_errors():
        runs, remarks = find_runs(args.input)
        run_command(args, runs, tool="data_tools.convert_hcp", remarks=remarks)
"""

import argparse
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import joblib

from data_tools.convert.conversion import Job, convert, failure
from data_tools.convert.dry_run import estimate_sizes, print_sizes
from data_tools.convert.pseudonyms import read_salt
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.skipped import print_store
from data_tools.errors import InputError, check_name, unknown
from data_tools.flags import command_parser, positive, words
from data_tools.readers.volume_run import is_volume
from data_tools.spaces.choose_space import SpaceFiles, add_space_flags
from data_tools.store.checks import check_target
from data_tools.timeseries.confounds import PRESETS
from data_tools.timeseries.recipe import CHAINS, MISSING, Recipe
from data_tools.timeseries.resampling import KINDS


def conversion_parser(
    tool: str, description: str, *, max_missing: float = 0.25
) -> argparse.ArgumentParser:
    """A parser with the flags that all converters have; `parse` reads a command line with it."""
    parser = command_parser(tool, description)
    add = parser.add_argument
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
    add_space_flags(parser)
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


def run_command(
    args: argparse.Namespace,
    runs: Sequence[RunFiles],
    *,
    tool: str,
    files: SpaceFiles | None = None,
    dataset: str = "",
    restricted: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> None:
    """Converts the runs as the flags say, or lists them, and prints what came of it.

    Args:
      args: of `parse`, with the attribute `input`: a path, or several.
      runs: what the converter found.
      tool: name of the converter.
      files: the space of the store; None takes that of the flags, for runs on fsLR-32k.
      dataset: name for the run table, unless the user gives one.
      restricted: fields that must not be shown, whatever the user says.
      remarks: on the runs, to be printed first.
    """
    for path in (args.output, *(run.path for run in runs)):
        check_name(path)
    for remark in remarks:
        print(remark)
    files = files or SpaceFiles.of_flags(args)
    recipe = _recipe(args, args.chain or files.space_map.default_chain)
    if args.cortex is not None and not all(is_volume(run.path) for run in runs):
        raise InputError(
            "These runs are on the surface and --cortex is for volumes: leave it out, or give "
            "volumes in MNI152 space to data_tools.convert or convert_hcp."
        )
    hidden = words(*args.restricted)
    _check_fields(hidden, runs)
    pseudonyms = read_salt(args.pseudonymise) if args.pseudonymise else None
    if pseudonyms:
        runs = pseudonyms.runs(runs)
    job = Job(files.space_map, recipe, args.dataset or dataset)
    if args.dry_run:
        check_target(args.output, args.overwrite)
        sizes = estimate_sizes(runs, job, args.shard, args.jobs)
        bad, n_good = print_sizes(sizes, job.space_map.geometry, args.output, "converted")
        if reason := failure(bad, n_good, args.strict, args.shard):
            raise InputError(reason)
        return
    inputs = [args.input] if isinstance(args.input, str | Path) else args.input
    with _spread(args.dask):
        store, skipped = convert(
            runs,
            args.output,
            job,
            provenance={
                "tool": tool,
                # Names without directories, which say little elsewhere; none that name people.
                "input": None if pseudonyms else [Path(x).resolve().name for x in inputs],
                "pseudonymised": pseudonyms is not None,
                **files.provenance(names=pseudonyms is None),
            },
            restricted=[*restricted, *hidden],
            shard=args.shard,
            jobs=args.jobs,
            overwrite=args.overwrite,
            strict=args.strict,
        )
    if store is None:
        print(f"{args.output}: no run of this shard could be converted; merge will list them.")
    else:
        print_store(store, len(skipped))


def check_restricted(names: Sequence[str], known: Iterable[str], who: str = "No run has a") -> None:
    """Refuses to restrict a field that is not there: the one that is meant would stay open."""
    if missing := sorted(set(names) - set(known)):
        raise unknown(f"{who} field '{missing[0]}' to restrict", sorted(known))


def _check_fields(names: Sequence[str], runs: Sequence[RunFiles]) -> None:
    found = {"dataset", "session", "task", "events", "confounds"}
    check_restricted(names, found.union(*(run.fields for run in runs)))


def _recipe(args: argparse.Namespace, chain: str) -> Recipe:
    names = {field.name for field in dataclasses.fields(Recipe)} - {"chain", "confounds"}
    given = {name: getattr(args, name) for name in names}
    return Recipe(chain=chain, confounds=tuple(words(*args.confounds)), **given)


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


def _seconds(text: str) -> tuple[float, float]:
    """ "START:STOP" in seconds, either may be left out: ":600" is the first ten minutes."""
    start, colon, stop = text.partition(":")
    with contextlib.suppress(ValueError):
        if colon:
            return float(start or 0), float(stop or math.inf)
    raise argparse.ArgumentTypeError(f"{text} is not START:STOP in seconds, such as 30:600")


def _dummies(text: str) -> int | str:
    if text == "auto" or text.isdecimal():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"{text} is neither 'auto' nor a number of frames")


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts):
        return int(part), int(parts)
    raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 0 to N - 1, such as 0/8")
