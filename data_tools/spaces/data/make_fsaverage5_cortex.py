"""Rebuilds `fsaverage5_cortex.npz` from the run that ships in the package brainspace 0.3.0.

Run by hand: python -m data_tools.spaces.data.make_fsaverage5_cortex FOLDER_OF_THE_UNPACKED_WHEEL
"""

import io
import sys
from pathlib import Path

import numpy as np

from data_tools.errors import kind_errors
from data_tools.files.atomic import write_bytes
from data_tools.readers.surfaces import read_surface_run

RUN = "brainspace/datasets/preprocessing/sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.lh.mgz"
PROVENANCE = (
    "Vertices of fsaverage5 (FreeSurfer) that are not constant in the resting-state run "
    "sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.{lh,rh}.mgz of the PyPI package brainspace "
    "0.3.0 (BSD-3-Clause): the constant ones are the medial wall, 888 left and 881 right."
)


def main(unpacked: str) -> None:
    run = read_surface_run(Path(unpacked) / RUN)
    cortex = {"left": (run.left != run.left[0]).any(0), "right": (run.right != run.right[0]).any(0)}
    for side, mask in cortex.items():
        print(f"{side}: {mask.size} vertices, {(~mask).sum()} of them constant")
    buffer = io.BytesIO()
    np.savez(
        buffer,
        n_vertices=np.int32(run.left.shape[1]),
        provenance=np.array(PROVENANCE),
        **{side: np.packbits(mask) for side, mask in cortex.items()},
    )
    write_bytes(Path(__file__).with_name("fsaverage5_cortex.npz"), buffer.getvalue())


if __name__ == "__main__":
    with kind_errors():
        main(sys.argv[1])
