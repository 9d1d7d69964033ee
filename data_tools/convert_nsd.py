"""Turns the Natural Scenes Dataset, mapped to fsLR-32k, into a store.

    python -m data_tools.convert_nsd --input=ROOT --output=STORE [--trials=TABLE.csv]

ROOT holds `subjNN/32k_fs_LR/timeseries` (see `nsd`). With --trials, or with --logits by image,
events say the class of their image (see `nsd_trials`). From the volumes of the release to ROOT lead
the commands that this writes, once it has checked that all they need is there:

    python -m data_tools.convert_nsd --from-volume --input=NSD --mapped=ROOT \\
        --templates=HCPpipelines/global/templates/standard_mesh_atlases/resample_fsaverage \\
        --output=STORE > commands.sh

The last of them is the conversion, with all other flags that are given here.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from data_tools.convert.convert_command import conversion_parser, run_command
from data_tools.convert.releases.nsd import find_nsd_runs, volume_recipe
from data_tools.convert.releases.nsd_trials import label_runs
from data_tools.errors import InputError, kind_errors
from data_tools.flags import parse

_TOOL = "data_tools.convert_nsd"


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = conversion_parser(
        _TOOL,
        "Turns the Natural Scenes Dataset, mapped to fsLR-32k, into a store.",
        max_missing=0.01,
    )
    add = parser.add_argument
    add("--input", required=True, metavar="ROOT", help="directory with the folders subjNN")
    add("--designs", metavar="ROOT", help="the same for the designs, where they are elsewhere")
    add("--subjects", metavar="LIST", help="names or patterns with commas, or a file of names")
    add("--trials", metavar="FILE", help="CSV of included trials, with category_id or --logits")
    add("--logits", metavar="FILE", help=".npy (73000, classes) by image: the largest is the class")
    add("--from-volume", action="store_true", help="write the commands that map volumes, only")
    add("--mapped", type=Path, metavar="DIR", help="with it: where mapped runs shall be")
    add("--templates", type=Path, metavar="DIR", help="with it: resample_fsaverage of HCPpipelines")
    args = parse(parser, argv)
    with kind_errors():
        if args.from_volume:
            _print_recipe(args, _conversion_flags(argv))
            return
        if args.mapped or args.templates:
            raise InputError("--mapped and --templates are of volumes: give --from-volume too.")
        runs, remarks = find_nsd_runs(args.input, designs=args.designs, subjects=args.subjects)
        if args.trials or args.logits:
            runs = label_runs(runs, args.trials, args.logits)
        run_command(args, runs, tool=_TOOL, dataset="nsd", remarks=remarks)


def _print_recipe(args: argparse.Namespace, flags: Sequence[str]) -> None:
    """Prints the commands on the standard output, and what there is to say elsewhere."""
    if not (args.mapped and args.templates):
        raise InputError(
            "--from-volume needs --mapped=DIR for the mapped runs, and --templates=DIR, the "
            "directory resample_fsaverage of the HCP pipelines."
        )
    label_runs([], args.trials, args.logits)  # after days of mapping it is late to find a fault
    script, remarks = volume_recipe(
        args.input,
        args.mapped,
        args.templates,
        flags,
        designs=args.designs,
        subjects=args.subjects,
    )
    print(script, end="")
    if shutil.which("wb_command") is None:
        remarks.append("The commands need wb_command of Connectome Workbench, which is not here.")
    for remark in remarks:
        print(remark, file=sys.stderr)


def _conversion_flags(argv: Sequence[str]) -> list[str]:
    """The words of a command line but for those of the recipe alone, and the two it fills in."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--from-volume", action="store_true")
    for name in ("--input", "--designs", "--mapped", "--templates"):
        parser.add_argument(name)
    return parser.parse_known_args(argv)[1]


if __name__ == "__main__":
    main()
