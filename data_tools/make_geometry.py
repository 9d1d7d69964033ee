"""Writes the geometry of a space to a file, for data that are published without one.

    python -m data_tools.make_geometry --cortex=Schaefer2018_..._FSLMNI152_2mm.nii.gz --output=FILE
    python -m data_tools.make_geometry --parcels=Schaefer2018_..._order.dlabel.nii --output=FILE

The importers and `fmrifm.port` take the file with `--geometry=FILE`. Without `--parcels` or
`--cortex` it is that of the flat map that `convert` would use.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_tools.errors import InputError, kind_errors
from data_tools.files.atomic import write_bytes
from data_tools.flags import command_parser, parse
from data_tools.spaces.choose_space import SpaceFiles, add_space_flags
from data_tools.spaces.standard_maps import STANDARD_SPACES


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.make_geometry", __doc__)
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="FILE", help="geometry.npz to write")
    add_space_flags(parser)
    add("--space", choices=STANDARD_SPACES, default="fsLR-32k", help="of the flat map that ships")
    args = parse(parser, argv)
    with kind_errors():
        if args.output.suffix != ".npz":
            raise InputError(f"{args.output} does not end in .npz: give the geometry such a name.")
        files = dataclasses.replace(SpaceFiles.of_flags(args), space=args.space)
        geometry = files.space_map.geometry
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(args.output, geometry.to_bytes())
        print(
            f"{args.output}: {geometry.space}, {geometry.n_patches} patches of "
            f"{geometry.patch_dim}, {geometry.n_pixels:,} valid of {geometry.width:,} columns"
        )


if __name__ == "__main__":
    main()
