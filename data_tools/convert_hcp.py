"""Turns the HCP young adult release into a store.

    python -m data_tools.convert_hcp --input=ROOT --output=STORE [--batches=0-17 ...]

ROOT holds a folder a subject, with `MNINonLinear/Results/ACQUISITION` in it (see `hcp`). Batches
of subjects in which families stay together come from the restricted table of the release, or from a
table of batches (see `hcp_batches`).
"""

import dataclasses
from collections.abc import Sequence

from data_tools.convert.convert_command import conversion_parser, run_command
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases.hcp import SUFFIX, find_hcp_runs, hcp_subjects
from data_tools.convert.releases.hcp_batches import (
    PUBLISHED_SUBJECTS,
    family_batches,
    parse_numbers,
    read_batches,
    read_families,
)
from data_tools.errors import InputError, kind_errors
from data_tools.flags import parse

_TOOL = "data_tools.convert_hcp"


def main(argv: Sequence[str] | None = None) -> None:
    parser = conversion_parser(
        _TOOL, "Turns the HCP young adult release into a store.", max_missing=0.01
    )
    add = parser.add_argument
    add("--input", required=True, metavar="ROOT", help="directory with a folder a subject")
    add(
        "--suffix",
        help=f"of the series, also _Atlas_MSMAll_hp2000_clean ({SUFFIX}; of volumes none)",
    )
    add("--subjects", metavar="LIST", help="names or patterns with commas, or a file of names")
    add("--tasks", metavar="LIST", help="tasks to take, such as REST1,REST2 or MOVIE*")
    add("--restricted-csv", metavar="FILE", help="table that tells families: batches keep them")
    add("--batches-table", metavar="FILE", help="table of subject and batch: CSV, TSV or JSON")
    add("--batches", type=parse_numbers, metavar="LIST", help="batches to convert, such as 0-17")
    args = parse(parser, argv)
    with kind_errors():
        runs, remarks = find_hcp_runs(
            args.input,
            suffix=args.suffix,
            volumes=bool(args.cortex),
            subjects=args.subjects,
            tasks=args.tasks,
        )
        runs, more = add_batches(
            runs, args.input, args.restricted_csv, args.batches_table, args.batches
        )
        restricted = ["family"] if args.restricted_csv else []
        remarks += more
        run_command(args, runs, tool=_TOOL, dataset="hcp", restricted=restricted, remarks=remarks)


def add_batches(
    runs: Sequence[RunFiles],
    root: str,
    restricted_csv: str | None,
    batches_table: str | None,
    wanted: frozenset[int] | None,
) -> tuple[list[RunFiles], list[str]]:
    """Adds the fields batch and family to runs, keeps those of wanted batches, and gives remarks.

    Batches come from a table of them, or else from that of the families of the subjects with a
    folder below `root`.
    """
    families: dict[str, int] = {}
    batches: dict[str, int] = {}
    remarks = []
    if restricted_csv:
        families, column = read_families(restricted_csv)
        if column != "Pedigree_ID":
            remarks.append(f"Families are told by {column}, which sets half-siblings apart.")
    if batches_table:
        batches = read_batches(batches_table)
    elif restricted_csv:
        subjects = hcp_subjects(root)
        try:
            batches = family_batches(subjects, families)
        except InputError as error:
            if wanted is not None:
                raise
            remarks.append(f"Runs get no batch. {error}")
        if batches and len(subjects) != PUBLISHED_SUBJECTS:
            remarks.append(
                f"The batches are not the published ones, which are of {PUBLISHED_SUBJECTS:,} "
                f"subjects: {len(subjects):,} have a folder here. --batches-table takes a given "
                "table."
            )
    elif wanted is not None:
        raise InputError(
            "Nobody says who is in these batches: give --restricted-csv or --batches-table."
        )
    without = {run.fields["subject"] for run in runs} - batches.keys()
    if batches and without:
        remarks.append(f"Subjects without a batch, as the tables do not have them: {len(without)}.")
    kept = []
    for run in runs:
        subject = run.fields["subject"]
        if wanted is None or batches.get(subject) in wanted:
            tables = {"batch": batches, "family": families}
            found = {name: table[subject] for name, table in tables.items() if subject in table}
            kept.append(dataclasses.replace(run, fields=run.fields | found))
    if not kept:
        raise InputError("No run is in these batches: give others with --batches.")
    return kept, remarks


if __name__ == "__main__":
    main()
