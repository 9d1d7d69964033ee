"""Simulates multi-subject rest and task fMRI on the fsaverage5 cortex, with known ground truth.

    python -m data_tools.simulate --output=DIR

writes stores DIR/train, DIR/val and DIR/test, split by subject, that have passed through the same
preprocessing and lie on the same flat map as real runs (45 MB a run of 240 frames). Any other
format is a tree of the raw runs for the converters: `cifti` or `gifti`, BIDS-like and on
fsaverage5; or one on fsLR-32k with the file names and tables of fMRIPrep (`fmriprep`), of the HCP
young adult release (`hcp`), of the Natural Scenes Dataset (`nsd`) or of UK Biobank (`ukbb`).
DIR/truth.npz holds the ground truth, DIR/truth.json the flags and what the arrays mean. A run of
240 frames takes a core less than a second, and memory does not grow with the number of subjects.

`--effect` is the one knob that makes conditions easy or hard to tell apart. Accuracy of a linear
classifier of `trial_type` on subjects that it has not seen (8 to train, 4 to test, other flags as
they are by default, so chance is 0.25; features: what parcels do in the 16 s after an onset):

    --effect              0     0.25   0.5    1      2      4
    --task=block          0.26  0.32   0.45   0.76   0.97   1.00
    --task=event          0.27  0.28   0.35   0.55   0.82   0.97

The numbers vary by some 0.05 from seed to seed. At 0 nothing in a run depends on the task, not even
its timing, so that every decoder is at chance.

What spoils real collections comes on request. `--sites=K` deals the subjects to K scanners with
TRs, noise and gains of their own. `--motion=STRENGTH` adds the artefacts of head motion, which
differs from subject to subject. `--diagnosis` labels half of the subjects as patients, who differ
from the controls in nothing (`none`), in how their networks are coupled (`effect`), in where most
of them were scanned (`site`), or in how much they move (`motion`): a good analysis finds the
second, finds nothing in the first, and warns of the others. Area under the curve of a linear
classifier of `diagnosis` on connectivity (80 subjects, a rest run of 200 frames each, 5 folds):

    none   effect   effect at --diagnosis-effect=0.5   site, 2 sites   motion at --motion=1
    0.52   0.91     0.68                               0.80            0.79
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from data_tools.errors import InputError, kind_errors
from data_tools.flags import command_parser
from data_tools.simulate.design import DESIGNS
from data_tools.simulate.study import DIAGNOSES, Study
from data_tools.simulate.write_study import FORMATS, SPLITS, simulate


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; see the module's docstring."""
    flags = vars(_parser().parse_args(arguments))
    output, kind = Path(flags.pop("output")), flags.pop("format")
    places = {name: flags.pop(name) for name in ("splits", "jobs", "overwrite")}
    with kind_errors():
        study, splits = Study(**flags), places.pop("splits")
        try:
            shares = tuple(float(share) for share in splits.split(","))
        except ValueError:
            fault = f"--splits={splits} is not a list of numbers such as 0.6,0.2,0.2."
            raise InputError(fault) from None
        simulate(study, output, kind=kind, shares=shares, **places)
        n_runs = len(study.run_names)
        what = f"Runs of {study.seconds:g} s, {n_runs} from each of {study.subjects} subjects,"
        if kind == "store":
            stores = ", ".join(str(output / name) for name in SPLITS)
            print(f"{what} are in the stores {stores}; the truth is in {output / 'truth.npz'}.")
        else:
            print(f"{what} are in {output}, as '{kind}'; the truth is in truth.npz there.")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data_tools.simulate", __doc__)
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="directory to make")
    add("--format", choices=FORMATS, default="store", help="what to write (default: %(default)s)")
    for field in dataclasses.fields(Study):
        add(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            choices={"task": tuple(DESIGNS), "diagnosis": DIAGNOSES}.get(field.name),
            default=field.default,
            help=f"{field.metadata['help']} (default: %(default)s)",
        )
    add(
        "--splits",
        default="0.6,0.2,0.2",
        metavar="TRAIN,VAL,TEST",
        help="shares of the subjects in the three stores (default: %(default)s)",
    )
    add("--jobs", type=int, default=-1, help="processes (default: -1, one a core)")
    add("--overwrite", action="store_true", help="replace an earlier simulation")
    return parser


if __name__ == "__main__":
    sys.exit(main())
