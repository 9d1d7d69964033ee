"""Turns runs into a store.

    python -m data_tools.convert --input=PATH [PATH ...] --output=STORE

A path is a CIFTI `.dtseries.nii`, one or both files of a left/right pair of GIFTI or FreeSurfer MGZ
time series, or a BIDS-like tree (fMRIPrep's, say) that is searched for such files; what BIDS keeps
beside them (events, TR, confounds, participants) is found and kept. The work is spread over
processes, run by run; a killed conversion goes on where it stopped. A run that cannot be converted
is skipped with its reason (see `conversion`). A store is of the flat map, unless `--parcels` or
`--cortex` ask for averages of parcels, or for the cortex of volumes in MNI152 space.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from data_tools.convert.convert_command import conversion_parser, run_command
from data_tools.convert.raw_run import RunFiles
from data_tools.convert.releases.bids import describe_runs, find_runs, in_space, space_of
from data_tools.convert.releases.side_by_side import FLAGS, choose_versions
from data_tools.errors import InputError, kind_errors
from data_tools.flags import parse
from data_tools.readers.surface_run import SPACES
from data_tools.spaces.choose_space import SpaceFiles
from data_tools.spaces.standard_maps import STANDARD_SPACES

# How to bring runs of other spaces to one that a flat map ships for.
_FIX = {
    "fsLR-59k": "run fMRIPrep with --cifti-output 91k, or resample each run to the 91,282 "
    "grayordinates with wb_command -cifti-resample",
}
# Of volumes; the first is the published one.
_VOLUME_SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; see the module's docstring."""
    args = parse_args(argv)
    with kind_errors():
        run(args)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = conversion_parser("data_tools.convert", "Turns fMRI runs into a store.")
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="PATH", help="runs, or trees to search"
    )
    parser.add_argument(
        "--space",
        choices=(*STANDARD_SPACES, *_VOLUME_SPACES),
        help="of a tree with several (what the names tell)",
    )
    for name in FLAGS:
        help_text = f"of a tree with several: the entity {name} of names, '' where it is not there"
        parser.add_argument(f"--{name}", metavar="LABEL", help=help_text)
    parser.add_argument(
        "--participants", metavar="FILE", help="table like participants.tsv (that of the tree)"
    )
    parser.add_argument(
        "--bids", metavar="DIR", help="raw BIDS dataset, where derivatives lie outside of it"
    )
    return parse(parser, argv)


def run(args: argparse.Namespace) -> None:
    """Converts as the flags say."""
    found = find_runs(
        *(args.input, args.participants, args.bids),
        volumes=bool(args.cortex),
        show=not args.pseudonymise,
    )
    files = SpaceFiles.of_flags(args)
    if args.surfaces or args.parcels:
        space = SPACES.get(files.space_map.n_vertices[0])
    else:
        space = args.space or choose_space(found, volumes=bool(args.cortex))
        files = dataclasses.replace(files, space=space)
    if not (args.confounds or args.highpass or args.lowpass):
        print(
            "NOTE: nothing is denoised. Output of fMRIPrep still holds head motion and drift, "
            "which data that models are trained on often do not: consider --confounds=simple.",
            file=sys.stderr,
        )
    runs = in_space(found, space)
    remarks = []
    if len(runs) < len(found):
        others = {space_of(run.path.name) for run in found} - {None, space}
        remarks.append(
            f"Left out, as their names tell other spaces, which --space chooses "
            f"({', '.join(sorted(others))}): {len(found) - len(runs)} runs."
        )
    runs, more = choose_versions(runs, {name: getattr(args, name) for name in FLAGS})
    print(describe_runs(runs))
    run_command(args, runs, tool="data_tools.convert", files=files, remarks=[*remarks, *more])


def choose_space(runs: Sequence[RunFiles], volumes: bool) -> str | None:
    """The standard space that runs are on, from their names, or from the header of the first.

    Of several, the one that the published models are trained on comes first. InputError for a mesh
    for which no flat map ships with us; None for volumes whose names do not say their space.
    """
    told = {space_of(run.path.name) for run in runs}
    preferred = _VOLUME_SPACES if volumes else ("fsLR-32k", "fsaverage5")
    space = next((space for space in preferred if space in told), None)
    if space or volumes:
        return space
    # Where no run can be read, converting them tells why.
    space = next(filter(None, map(_space_in_header, runs)), "fsLR-32k")
    if space not in STANDARD_SPACES:
        fix = _FIX.get(space, f"give flat surfaces of {space} with --surfaces=LEFT RIGHT")
        raise InputError(f"The runs are on {space}, for which we have no flat map: {fix}.")
    return space


def _space_in_header(run: RunFiles) -> str | None:
    try:
        return run.read_header(run.path).space
    except InputError:
        return None


if __name__ == "__main__":
    main()
