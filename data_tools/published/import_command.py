"""The command line that the importers share: their flags, and what is done with them."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tqdm

from data_tools.convert.convert_command import add_shared_flags, words
from data_tools.convert.dry_run import describe_whole
from data_tools.convert.skipped import Outcome
from data_tools.errors import InputError, as_input_errors
from data_tools.published.headers import scan_sources
from data_tools.published.importing import ImportJob
from data_tools.published.maps import geometry_of_width, read_geometry
from data_tools.published.source import PublishedRun, Source
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import FRAME_DTYPE, SKIPPED, Store
from data_tools.timeseries.recipe import MISSING
from data_tools.timeseries.resampling import KINDS
from data_tools.wording import format_bytes


def import_parser(tool: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that all importers have; read with `conversion_command.parse`."""
    parser = argparse.ArgumentParser(
        f"python -m {tool}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--geometry", metavar="SOURCE", help="of the columns: geometry.npz, store, model, or name")
    add("--dataset", help="name of the dataset, for the run table")
    add("--target-tr", type=float, default=0.0, help="the store's TR, 0 keeps (%(default)s)")
    add("--kind", choices=KINDS, default="linear", help="how to resample to it (%(default)s)")
    add("--missing", choices=MISSING, default="record", help="columns of zeros (%(default)s)")
    add_shared_flags(parser)
    add("--skip-damaged", action="store_true", help="leave out what cannot be read, and list it")
    return parser


def restricted_fields(args: argparse.Namespace, known: Iterable[str]) -> list[str]:
    """The fields to restrict.

    Args:
      args: the flags of `import_parser`.
      known: fields that there are, beside those of every run.

    Raises:
      InputError: one is none of them: the one that is meant would stay open.
    """
    names, known = words(args.restricted), {"dataset", "subject", "session", "task", *known}
    if unknown := sorted(set(names) - known):
        raise InputError(
            f"The first run has no field '{unknown[0]}' to restrict: choose of "
            f"{', '.join(sorted(known))}."
        )
    return names


def import_job(args: argparse.Namespace, geometry: Geometry, dataset: str = "") -> ImportJob:
    """What the flags of `import_parser` ask for."""
    return ImportJob(
        geometry,
        args.dataset or dataset,
        args.missing,
        args.target_tr,
        args.kind,
        args.skip_damaged,
    )


def first_run(sources: Sequence[Source], skip_damaged: bool) -> PublishedRun:
    """The first run that can be read: it tells the form, columns and TR of all; one frame of it."""
    problem = None
    for source in sources:
        try:
            with as_input_errors():
                for run in source.read():
                    if isinstance(run, PublishedRun):
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


def print_sizes(
    sources: Sequence[Source],
    geometry: Geometry,
    output: Path,
    jobs: int,
    n_kept: Callable[[int], int] = int,
) -> None:
    """Prints the size of each run in a store and of the whole, and what cannot be imported.

    Args:
      sources: what would be imported.
      geometry: of the store.
      output: where the store would appear; nothing is written there.
      jobs: number of processes that read headers, -1 for one a core.
      n_kept: the frames that the store would have of a run, by those of the run.
    """
    frame_bytes = geometry.n_patches * geometry.patch_dim * FRAME_DTYPE.itemsize
    n_runs, n_frames, n_bad = 0, 0, 0
    for runs in scan_sources(sources, geometry, jobs):
        for run in runs:
            if isinstance(run, Outcome):
                n_bad += 1
                tqdm.tqdm.write(f"{run.key}  cannot be imported: {run.reason}")
            else:
                kept = n_kept(run[1])
                n_runs, n_frames = n_runs + 1, n_frames + kept
                tqdm.tqdm.write(f"{run[0]}  {kept:,} frames  {format_bytes(kept * frame_bytes)}")
    whole = describe_whole(output, n_runs, n_frames, n_frames * frame_bytes)
    print(f"{whole} What cannot be imported: {n_bad:,}.")


def print_store(store: Store, skipped: Sequence[Outcome]) -> None:
    """Says what came of an import."""
    print(
        f"{store.path}: {store.meta['n_frames']:,} frames of {store.tr:g} s, "
        f"{store.geometry.n_patches} patches, runs: {len(store.runs)}"
    )
    if skipped:
        print(f"Left out: {len(skipped)}, see {store.path / SKIPPED}")
