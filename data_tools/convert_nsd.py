"""Turns the Natural Scenes Dataset, mapped to fsLR-32k, into a store.

    python -m data_tools.convert_nsd --input=ROOT --output=STORE

ROOT holds `subjNN/32k_fs_LR/timeseries` (see `nsd`; docs/data.md says how to make them).
"""

import argparse
from collections.abc import Sequence

from data_tools.conversion_command import conversion_parser, parse, run_command
from data_tools.errors import kind_errors
from data_tools.releases.nsd import find_nsd_runs

_TOOL = "data_tools.convert_nsd"


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_args(argv)
    with kind_errors():
        runs, remarks = find_nsd_runs(args.input, designs=args.designs, subjects=args.subjects)
        for remark in remarks:
            print(remark)
        run_command(args, runs, tool=_TOOL, dataset="nsd")


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = conversion_parser(
        _TOOL,
        "Turns the Natural Scenes Dataset, mapped to fsLR-32k, into a store.",
        max_missing=0.01,
    )
    add = parser.add_argument
    add("--input", required=True, metavar="ROOT", help="directory with the folders subjNN")
    add("--designs", metavar="ROOT", help="the same for the designs, where they are elsewhere")
    add("--subjects", metavar="LIST", help="names or patterns with commas, or a file of names")
    return parse(parser, argv)


if __name__ == "__main__":
    main()
