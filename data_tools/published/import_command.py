"""The command line that the importers share: their flags, and what is done with them."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.convert.convert_command import add_shared_flags
from data_tools.convert.dry_run import print_sizes
from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.flags import command_parser
from data_tools.published.importing import ImportJob, scan_sources
from data_tools.published.maps import geometry_of_width, read_geometry
from data_tools.published.source import WRONG_TR, PublishedRun, Source
from data_tools.spaces.geometry import Geometry
from data_tools.timeseries.recipe import MISSING, check_tr
from data_tools.timeseries.resampling import KINDS


def import_parser(tool: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all importers have; read with `flags.parse`."""
    parser = command_parser(tool, description)
    add = parser.add_argument
    add("--geometry", metavar="SOURCE", help="of the columns: geometry.npz, store, model, or name")
    add("--dataset", help="name of the dataset, for the run table")
    add("--target-tr", type=float, default=0.0, help="the store's TR, 0 keeps (%(default)s)")
    add("--kind", choices=KINDS, default="linear", help="how to resample to it (%(default)s)")
    add("--missing", choices=MISSING, default="record", help="columns of zeros (%(default)s)")
    add_shared_flags(parser)
    add("--skip-damaged", action="store_true", help="leave out what cannot be read, and list it")
    return parser


def import_job(args: argparse.Namespace, geometry: Geometry, dataset: str = "") -> ImportJob:
    """The job that the flags of `import_parser` ask for."""
    if args.target_tr:
        check_tr(args.target_tr, "--target-tr", "give it in seconds with --target-tr")
    names = ("missing", "target_tr", "kind", "skip_damaged")
    given = {name: getattr(args, name) for name in names}
    return ImportJob(geometry, args.dataset or dataset, **given)


def first_run(sources: Sequence[Source], skip_damaged: bool) -> PublishedRun:
    """The first run that can be read: it tells the form, columns and TR of all; one frame of it."""
    problem = None
    for source in sources:
        try:
            with as_input_errors():
                for run in source.read():
                    if isinstance(run, PublishedRun):
                        check_tr(run.tr, f"The TR of run {run.key} of {source.name}", WRONG_TR)
                        # The whole would stay in memory as long as the import lasts.
                        return dataclasses.replace(run, bold_TxC=run.bold_TxC[:1].copy())
                    if not skip_damaged:
                        raise InputError(run.reason)
                    problem = problem or run.reason
        except InputError as error:
            if not skip_damaged:
                raise
            problem = problem or str(error)
    raise InputError(f"No run can be read; the first: {problem}")


def geometry_of(run: PublishedRun, source: str | None) -> Geometry:
    """The geometry of published data: a given one, or what the width of their columns tells."""
    return read_geometry(source) if source else geometry_of_width(run.bold_TxC.shape[-1])


def print_import_sizes(
    sources: Sequence[Source],
    geometry: Geometry,
    output: Path,
    jobs: int,
    n_kept: Callable[[int], int] = int,
) -> None:
    """Prints the sizes of runs and store, from headers read in `jobs` processes; see `print_sizes`.

    `n_kept` gives the frames that the store would have of a run, from those of the run.
    """
    sizes = (
        run if isinstance(run, Outcome) else (run[0], n_kept(run[1]))
        for run in scan_sources(sources, geometry, jobs)
    )
    print_sizes(sizes, geometry, output, "imported")
