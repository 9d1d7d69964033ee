"""Turns Arrow folders, as Brainmarks ships them, into stores: one for every split.

    python -m data_tools.import_arrow --input=hcpya-task21.flat.arrow --output=DIR

leaves DIR/train, DIR/validation, DIR/test, ...; of a folder that is one split DIR is the store.
Rows are clips, whose labels become an event over the whole clip, or whole runs, whose labels are in
the run table. Folders that the library `datasets` saved are read too, here and in buckets. A split
that was imported stays when the command is run again.

Labels in a JSON file {subject: label} are joined with --join=dx=abide_target_map_dx.json. A trait
that is published, such as --trait=abide_dx, brings label, file and resampling of its results.
"""

import argparse
import collections
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm

from data_tools.conversion_command import parse
from data_tools.errors import InputError, kind_errors
from data_tools.import_command import (
    first_run,
    geometry_of,
    import_job,
    import_parser,
    print_sizes,
    print_store,
)
from data_tools.importing import ImportJob, import_sources
from data_tools.outcomes import Outcome
from data_tools.published.arrow_files import Row, read_rows, read_sizes, read_values
from data_tools.published.arrow_folders import find_splits
from data_tools.published.arrow_rows import UNLABELLED, RowForm, are_clips, check_labels, read_join
from data_tools.published.runs import PublishedRun, Source
from data_tools.published.traits import read_trait
from data_tools.recipe import Recipe
from data_tools.remote import base_name, is_url
from data_tools.store import Store
from data_tools.surface_run import told_tr

_TOOL = "data_tools.import_arrow"
_SHOWN_LABELS = 4


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_args(argv)
    with kind_errors():
        if args.trait:
            _take_trait(args)
        args.unlabelled = args.unlabelled or "refuse"
        splits = find_splits(args.input, args.splits)
        rows = {name: _read_split(name, places) for name, places in splits.items()}
        _check_tr(rows, args.target_tr)
        form = _form(args, [row for some in rows.values() for row in some])
        for name, some in rows.items():
            if dropped := check_labels(some, form, name or base_name(args.input)):
                print(f"Rows of '{name}' without a label, left out: {dropped} of {len(some)}.")
        sources = {
            name: [_source(name, place, form) for place in places]
            for name, places in splits.items()
        }
        first = first_run([source for some in sources.values() for source in some], False)
        job = import_job(args, geometry_of(first, args.geometry), _dataset(args.input))
        for name in splits:
            output = args.output / name if name else args.output
            if args.dry_run:
                print_sizes(sources[name], job.geometry, output, args.jobs)
            elif _import_split(args, name, output, sources[name], job, first):
                print(f"{output} was imported before: it stays.")
        _print_labels(rows, form)


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


def _import_split(
    args: argparse.Namespace,
    split: str,
    output: Path,
    sources: Sequence[Source],
    job: ImportJob,
    first: PublishedRun,
) -> bool:
    """Imports a split, unless that was done before: then True."""
    provenance = {
        "tool": _TOOL,
        "input": base_name(args.input),
        "split": split,
        "files": [source.name for source in sources],
        "labels": args.labels,
        "unlabelled": args.unlabelled,
        "join": [text.split("=")[0] for text in args.join],
    }
    # A job that was begun with other labels does not go on with these.
    preprocessing = {
        "chain": "pixel",
        "zscore": Recipe().describe()["zscore"],
        "imported": "arrow",
        "rows": {name: provenance[name] for name in ("labels", "unlabelled", "join")},
    }
    if (output / "store.json").is_file() and not args.overwrite:
        if Store(output).meta["provenance"] == provenance:
            return True
    store, skipped = import_sources(
        sources,
        output,
        job,
        tr=first.tr,
        preprocessing=preprocessing,
        provenance=provenance,
        restricted=args.restricted,
        jobs=args.jobs,
        overwrite=args.overwrite,
    )
    print_store(store, skipped)
    return False


def _read_split(split: str, places: Sequence[str]) -> list[Row]:
    bar = tqdm.tqdm(places, f"read {split}".strip(), unit="file", leave=False, delay=1)
    return [row for place in bar for row in read_values(place, _name(split, place))]


def _check_tr(rows: dict[str, list[Row]], target_tr: float) -> None:
    """Refuses splits whose rows differ in TR: a store has one."""
    for split, some in rows.items():
        trs = sorted({told_tr(row["tr"]) or 0 for row in some})
        if len(trs) > 1 and not target_tr:
            raise InputError(
                f"The rows of '{split}' have TRs of {trs[0]:g} to {trs[-1]:g} s: give --target-tr "
                "to resample all runs to one."
            )


def _form(args: argparse.Namespace, rows: Sequence[Row]) -> RowForm:
    clips = are_clips(rows) if args.kind_of_rows == "auto" else args.kind_of_rows == "clips"
    if clips and args.target_tr:
        raise InputError("A clip that is resampled is no published clip: leave out --target-tr.")
    labels = None if args.labels is None else tuple(args.labels)
    return RowForm(clips, labels, tuple(map(read_join, args.join)), args.unlabelled)


def _source(split: str, place: str, form: RowForm) -> Source:
    name = _name(split, place)
    read, scan = (functools.partial(f, place, name, form) for f in (_read, _scan))
    return Source(name, read, scan, is_local=not is_url(place))


def _name(split: str, place: str) -> str:
    return f"{split}/{base_name(place)}" if split else base_name(place)


def _read(place: str, name: str, form: RowForm) -> Iterator[PublishedRun | Outcome]:
    for row, arrays in read_rows(place, name):
        if form.unlabelled == "drop" and form.lacks(form.with_joins(row)):
            continue
        try:
            yield form.run(row, arrays)
        except InputError as error:
            yield Outcome(form.key(row), Path(name), f"{name}: {error}")


def _scan(place: str, name: str, form: RowForm) -> Iterator[tuple[str, int, int]]:
    for row, (n_frames, n_columns) in read_sizes(place, name):
        if form.unlabelled != "drop" or not form.lacks(form.with_joins(row)):
            yield form.key(row), n_frames, n_columns


def _print_labels(rows: dict[str, list[Row]], form: RowForm) -> None:
    """Says how many rows, subjects and classes there are in every split."""
    for split, some in rows.items():
        some = [row for row in map(form.with_joins, some)]
        if form.unlabelled == "drop":
            some = [row for row in some if not form.lacks(row)]
        classes = collections.Counter(
            {name: len({row.get(name) for row in some}) for name in form.label_names(some[0])}
            if some
            else {}
        )
        told = ", ".join(f"{name} {n}" for name, n in list(classes.items())[:_SHOWN_LABELS])
        more = f" and {len(classes) - _SHOWN_LABELS} more" if len(classes) > _SHOWN_LABELS else ""
        print(
            f"{split or 'all':<12}{len(some):>8,} {'clips' if form.clips else 'runs'}, subjects: "
            f"{len({row.get('sub') for row in some}):,}; values of labels: {told or 'none'}{more}"
        )


def _dataset(folder: str) -> str:
    return base_name(folder).split(".")[0]


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = import_parser(_TOOL, __doc__)
    add = parser.add_argument
    add("--input", required=True, metavar="FOLDER", help="folder of Arrow files, path or URL")
    add("--output", required=True, type=Path, metavar="DIR", help="directory of the stores")
    add("--splits", type=_words, metavar="LIST", help="splits to take, such as train,test (all)")
    add(
        "--as",
        dest="kind_of_rows",
        choices=("auto", "clips", "runs"),
        default="auto",
        help="what rows are: auto says clips where they begin at several times (%(default)s)",
    )
    add("--labels", type=_words, metavar="LIST", help="columns that are labels (all that may be)")
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
