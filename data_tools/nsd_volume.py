"""Maps a volume run of the Natural Scenes Dataset to one side of fsaverage, as nsdcode does.

    python -m data_tools.nsd_volume RUN.nii.gz --nsd=ROOT --subject=subj01 --side=lh --output=FILE

Three cortical depths are sampled by cubic interpolation and averaged, then carried to fsaverage by
the nearest vertex; where to is in the release's own transforms. `convert_nsd --from-volume` tells
which runs need it, and what follows. (The package nsdcode 1.1 itself fails with today's NumPy.)
Letters in array names: T frames, V vertices of the subject, X vertices of fsaverage.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import tqdm
from nibabel import gifti
from scipy.ndimage import map_coordinates

from data_tools.errors import InputError, kind_errors
from data_tools.files.atomic import write_bytes
from data_tools.flags import command_parser
from data_tools.readers.surface_run import readable

SIDES = ("lh", "rh")
DEPTHS = (1, 2, 3)
_NOWHERE = 9999  # a vertex that lies outside of what was scanned
_FRAME_BLOCK = 16  # a run is about 10 GB in float64


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.nsd_volume", __doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN.nii.gz", help="func1mm time series of the release")
    add("--nsd", required=True, type=Path, metavar="ROOT", help="top of the release")
    add("--subject", required=True, metavar="SUBJECT", help="such as subj01")
    add("--side", required=True, choices=SIDES, help="hemisphere")
    add("--output", required=True, type=Path, metavar="FILE", help="GIFTI to write")
    args = parser.parse_args(argv)
    with kind_errors():
        series_TxX = map_run(args.run, args.nsd, args.subject, args.side)
        frames = [gifti.GiftiDataArray(frame, "NIFTI_INTENT_TIME_SERIES") for frame in series_TxX]
        write_bytes(args.output, gifti.GiftiImage(darrays=frames).to_bytes())


def transforms(subject: str, side: str) -> tuple[list[str], str]:
    """The files of the release, below its top, that say where the vertices of a side lie.

    They are those of the three depths, in voxels of the volume, and that of fsaverage, in vertices.
    """
    folder = f"nsddata/ppdata/{subject}/transforms/{side}"
    return [
        f"{folder}.func1pt0-to-layerB{i}.mgz" for i in DEPTHS
    ], f"{folder}.white-to-fsaverage.mgz"


def map_run(run: Path, nsd: Path, subject: str, side: str) -> np.ndarray:
    """(T, X) float32: a volume run (func1mm) at the vertices of one side of fsaverage."""
    depths, fsaverage = transforms(subject, side)
    places = [_read_transform(Path(nsd) / file, 3) - 1 for file in depths]  # counted from 1
    nearest_X = _read_transform(Path(nsd) / fsaverage, 1)[:, 0].astype(np.int64) - 1
    n_vertices = {len(place) for place in places}
    if len(n_vertices) > 1 or nearest_X.min() < 0 or nearest_X.max() >= min(n_vertices):
        raise InputError(f"The transforms of {subject}, {side}, do not fit: get them again.")
    places_3xDV = np.concatenate(places).T
    with readable(Path(run)):
        # Kept open: a gzipped file is read from its start again each time it is opened.
        volume, frames = nibabel.load(run, keep_file_open=True), []
        if volume.ndim != 4:
            raise InputError(f"{run} is no time series of volumes: give one of the release.")
        for first in tqdm.trange(0, volume.shape[3], _FRAME_BLOCK, desc=side, unit="block"):
            block = volume.slicer[..., first : first + _FRAME_BLOCK].get_fdata()
            for frame in np.moveaxis(block, 3, 0):
                values_DxV = sample_cubic(frame, places_3xDV).reshape(len(DEPTHS), -1)
                frames.append(values_DxV.mean(0)[nearest_X].astype(np.float32))
    return np.stack(frames)


def sample_cubic(frame: np.ndarray, places_3xN: np.ndarray) -> np.ndarray:
    """(N,) float64 values of a volume at places in voxels from 0, 0 outside of it.

    Outside is what nsdcode calls so: below 1, or above the number of voxels.
    """
    size = np.array(frame.shape)[:, None]
    outside = ~((places_3xN >= 1) & (places_3xN <= size)).all(0)
    # SciPy reads whatever lies in memory at places that are infinite or no number.
    places_3xN = np.where(outside, 0, places_3xN)
    values = map_coordinates(np.nan_to_num(frame), places_3xN, order=3, mode="nearest")
    values[outside] = 0
    return values


def _read_transform(path: Path, n_columns: int) -> np.ndarray:
    """(V, columns) float64."""
    with readable(path):
        values = nibabel.load(path).get_fdata()
        values = values.reshape(len(values), -1, order="F")
        if values.shape[1] != n_columns:
            raise InputError(
                f"{path} has {values.shape[1]} columns, not {n_columns}: get it again."
            )
        return np.where(values == _NOWHERE, -np.inf if n_columns == 3 else values, values)


if __name__ == "__main__":
    main()
