"""Turns Arrow folders, as Brainmarks ships them, into stores: one for every split.

    python -m data_tools.import_arrow --input=hcpya-task21.flat.arrow --output=DIR

leaves DIR/train, DIR/validation, DIR/test, ...; of a folder that is one split DIR is the store.
Rows are clips, whose labels become an event over the whole clip, or whole runs, whose labels are in
the run table. Folders that the library `datasets` saved are read too, here and in buckets. A split
that was imported as it would be now stays when the command is run again.

Labels in a JSON file {subject: label} are joined with --join=dx=abide_target_map_dx.json. A trait
that is published, such as --trait=abide_dx, brings label, file and resampling of its results: those
are of runs resampled with --target-tr=1 --kind=linear.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.convert.convert_command import check_restricted
from data_tools.convert.skipped import print_store
from data_tools.errors import InputError, kind_errors
from data_tools.files.byte_ranges import RangedFile, Retries
from data_tools.files.remote import base_name, is_url
from data_tools.flags import parse, words
from data_tools.published.arrow import Row, find_splits
from data_tools.published.arrow_rows import (
    UNLABELLED,
    RowForm,
    are_clips,
    arrow_source,
    check_labels,
    field_name,
    read_join,
    read_split,
    source_name,
)
from data_tools.published.import_command import (
    first_run,
    geometry_of,
    import_job,
    import_parser,
    print_import_sizes,
)
from data_tools.published.importing import ImportJob, first_problem, import_sources
from data_tools.published.published_split import read_trait
from data_tools.published.source import WRONG_TR, Source
from data_tools.readers.surface_run import told_tr
from data_tools.store.reader import Store
from data_tools.timeseries.recipe import Recipe, check_tr

_TOOL = "data_tools.import_arrow"
_SHOWN_LABELS = 4
# Fields of the run table that no column needs to make.
_FIELDS = frozenset({"dataset", "subject", "session", "task", "events", "source"})


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_args(argv)
    with kind_errors():
        if args.trait:
            _take_trait(args)
        args.unlabelled = args.unlabelled or "refuse"
        folder = base_name(args.input if is_url(args.input) else Path(args.input).resolve())
        splits = find_splits(args.input, args.splits)
        rows = {name: read_split(name, splits[name], args.skip_damaged) for name in splits}
        form = _form(args, [row for some in rows.values() for row in some])
        for name, some in rows.items():
            if dropped := check_labels(some, form, name or folder):
                lost = f"{dropped:,} of {len(some):,}"
                print(f"Rows of '{name or folder}' without a label, left out: {lost}.")
        trs = {name: _common_tr(some, name or folder, args) for name, some in rows.items()}
        sources = {
            name: [arrow_source(name, place, form) for place in places]
            for name, places in splits.items()
        }
        first = first_run([x for some in sources.values() for x in some], args.skip_damaged)
        job = import_job(args, geometry_of(first, args.geometry), folder.split(".")[0])
        # Nothing is written before the headers of all splits are found to be good.
        for some in () if args.dry_run or args.skip_damaged else sources.values():
            # Each split alone, since two may have the same keys.
            local = [source for source in some if source.is_local]
            if problem := first_problem(local, job.geometry, jobs=1):
                raise InputError(problem.reason)
        table = {}
        for name, places in splits.items():
            output = args.output / name if name else args.output
            if args.dry_run:
                print_import_sizes(sources[name], job.geometry, output, args.jobs)
                table[name] = [form.fields(row) for row in rows[name] if form.takes(row)]
                continue
            files = {source_name(name, x): RangedFile(x, Retries(0)).size() for x in places}
            provenance = {
                "tool": _TOOL,
                "input": folder,
                "split": name,
                "files": files,
                "dataset": job.dataset,
            }
            table[name] = _import_split(
                args, output, sources[name], job, trs[name], form, provenance
            )
        _print_table(table, {name: form.label_fields(some[0]) for name, some in rows.items()})


def _take_trait(args: argparse.Namespace) -> None:
    """Fills in what a published trait says, where the user says nothing else."""
    trait = read_trait(args.trait, args.input)
    args.labels = args.labels or [trait.label]
    args.splits = args.splits or list(trait.splits)
    args.join += [trait.join] if trait.join else []
    args.unlabelled = args.unlabelled or "drop"  # as published: who is not in the map is left out
    if not args.target_tr:
        args.target_tr, args.kind = trait.target_tr, trait.kind
    print(f"{trait.about}; target of a probe: {trait.target}")


def _form(args: argparse.Namespace, rows: Sequence[Row]) -> RowForm:
    clips = are_clips(rows) if args.kind_of_rows == "auto" else args.kind_of_rows == "clips"
    if clips and args.target_tr:
        raise InputError("A clip that is resampled is no published clip: leave out --target-tr.")
    labels = None if args.labels is None else tuple(args.labels)
    form = RowForm(clips, labels, tuple(map(read_join, args.join)), args.unlabelled)
    args.restricted = sorted(set(words(*args.restricted)))
    fields = {name: field_name(name, row) for row in rows for name in form.with_joins(row)}
    check_restricted(args.restricted, {*fields.values(), *_FIELDS}, "No row has a")
    hidden = tuple(name for name in fields if clips and fields[name] in args.restricted)
    return dataclasses.replace(form, restricted=hidden)


def _common_tr(rows: Sequence[Row], split: str, args: argparse.Namespace) -> float:
    """The TR of the rows of a split: a store has one."""
    trs = [told_tr(row.get("tr")) for row in rows]
    told = sorted({tr for tr in trs if tr is not None})
    if not told or (None in trs and not args.skip_damaged):
        raise InputError(
            f"The TR is missing in {trs.count(None):,} of {len(rows):,} rows of the split "
            f"'{split}': get its files again."
        )
    for tr in () if args.skip_damaged else told:
        check_tr(tr, f"A TR of the split '{split}'", WRONG_TR)
    if len(told) > 1 and not args.target_tr:
        raise InputError(
            f"The rows of '{split}' have TRs of {told[0]:g} to {told[-1]:g} s: give --target-tr "
            "to resample all runs to one."
        )
    return told[0]


def _import_split(
    args: argparse.Namespace,
    output: Path,
    sources: Sequence[Source],
    job: ImportJob,
    tr: float,
    form: RowForm,
    provenance: dict[str, Any],
) -> list[dict[str, Any]]:
    """Imports a split, unless that was done before; the lines of its run table."""
    preprocessing = {
        "chain": "pixel",
        "zscore": Recipe().describe()["zscore"],
        "imported": "arrow",
        # A job that was begun with rows of another form does not go on with these.
        "rows": form.describe(),
    }
    if not args.overwrite and (output / "store.json").is_file():
        store, wanted = Store(output), preprocessing | job.describe()
        if (
            store.meta["provenance"] == provenance
            and {name: store.preprocessing.get(name) for name in wanted} == wanted
            and store.meta["geometry_sha256"] == job.geometry.sha256()
            and store.restricted == set(args.restricted)
        ):
            print(f"{output} was imported before: it stays.")
            return store.runs
    store, skipped = import_sources(
        sources,
        output,
        job,
        tr=tr,
        preprocessing=preprocessing,
        provenance=provenance,
        restricted=args.restricted,
        jobs=args.jobs,
        overwrite=args.overwrite,
    )
    print_store(store, len(skipped), "Left out")
    return store.runs


def _print_table(table: Mapping[str, Sequence[Row]], labels: Mapping[str, Sequence[str]]) -> None:
    """Prints a line for every split; the numbers at labels are of different values.

    `table` holds lines of the run table, or of its fields where nothing was imported; `labels` the
    fields that are labels.
    """
    print(f"{'split':<12}{'runs':>9}{'frames':>13}{'subjects':>10}  labels")
    for split, lines in table.items():
        values = {x: {line[x] for line in lines if x in line} for x in labels[split]}
        told = ", ".join(f"{x} {len(values[x])}" for x in labels[split][:_SHOWN_LABELS])
        more = len(values) - _SHOWN_LABELS
        frames = f"{sum(line['n_frames'] for line in lines):,}" if "n_frames" in lines[0] else ""
        print(
            f"{split or 'all':<12}{len(lines):>9,}{frames:>13}"
            f"{len({line.get('subject') for line in lines}):>10,}  {told or 'none'}"
            + (f" and {more} more" if more > 0 else "")
        )


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = import_parser(_TOOL, __doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="FOLDER", help="folder of Arrow files, path or URL")
    add("--output", required=True, type=Path, metavar="DIR", help="directory of the stores")
    add("--splits", type=words, metavar="LIST", help="splits to take, such as train,test (all)")
    add(
        "--as",
        dest="kind_of_rows",
        choices=("auto", "clips", "runs"),
        default="auto",
        help="what rows are: auto says clips where they begin at several times (%(default)s)",
    )
    add("--labels", type=words, metavar="LIST", help="columns that are labels (all that may be)")
    add(
        "--join",
        action="append",
        default=[],
        metavar="NAME=FILE.json[@COLUMN+COLUMN]",
        help="a label from a file {key: label}; keys are of the column sub, unless others are said",
    )
    add("--trait", metavar="NAME", help="labels and resampling of a published trait: abide_dx, ...")
    add(
        "--unlabelled",
        choices=UNLABELLED,
        help="rows that lack a label (refuse; of a published trait drop)",
    )
    return parse(parser, argv)


if __name__ == "__main__":
    main()
