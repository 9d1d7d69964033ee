"""Turns the surface fMRI of UK Biobank (field 32136) into a store.

    python -m data_tools.convert_ukbb --input=ROOT --output=STORE [--modality=rfMRI]

ROOT holds, at any depth, the archives `PARTICIPANT_32136_INSTANCE_0.zip`, which are read as they
are (see `ukbb`).
"""

import argparse
from collections.abc import Sequence

from data_tools.convert.convert_command import conversion_parser, run_command
from data_tools.convert.releases.ukbb import TASKS, find_ukbb_runs
from data_tools.errors import kind_errors
from data_tools.flags import parse

_TOOL = "data_tools.convert_ukbb"


def main(argv: Sequence[str] | None = None) -> None:
    parser = conversion_parser(
        _TOOL, "Turns the surface fMRI of UK Biobank (field 32136) into a store.", max_missing=0.01
    )
    add = parser.add_argument
    add("--input", required=True, metavar="ROOT", help="directory that holds the archives")
    add("--modality", type=_modalities, default=tuple(TASKS), metavar="LIST", help="rfMRI,tfMRI")
    add("--subjects", metavar="LIST", help="names or patterns with commas, or a file of names")
    args = parse(parser, argv)
    with kind_errors():
        runs, remarks = find_ukbb_runs(args.input, modalities=args.modality, subjects=args.subjects)
        run_command(args, runs, tool=_TOOL, dataset="ukbb", remarks=remarks)


def _modalities(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if set(names) <= TASKS.keys():
        return names
    raise argparse.ArgumentTypeError(f"{text} is neither rfMRI nor tfMRI nor both with a comma")


if __name__ == "__main__":
    main()
