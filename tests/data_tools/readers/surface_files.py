"""Writes surface time series in the formats that scans come in."""

import nibabel
import numpy as np
from nibabel import cifti2, gifti

N = 10242


def series(seed=0, n_frames=5):
    return np.random.default_rng(seed).normal(size=(n_frames, N)).astype(np.float32)


def write_gifti(path, data, tr_ms=None, one_array=False, transpose=False):
    frames = [data.T if not transpose else data] if one_array else list(data)
    arrays = [
        gifti.GiftiDataArray(np.ascontiguousarray(frame), "NIFTI_INTENT_TIME_SERIES")
        for frame in frames
    ]
    if tr_ms is not None:
        arrays[0].meta = gifti.GiftiMetaData({"TimeStep": str(tr_ms)})
    nibabel.save(gifti.GiftiImage(darrays=arrays), path)


def write_mgz(path, data, tr_ms=0.0):
    volume = data.T[:, None, None, :].copy()
    # nibabel cannot write a fourth axis of one frame.
    volume = volume[..., 0] if len(data) == 1 else volume
    image = nibabel.freesurfer.MGHImage(volume, np.eye(4))
    image.header["tr"] = tr_ms
    nibabel.save(image, path)


def write_cifti(path, left, right, tr=0.72, drop=0, below=None, along=0):
    """Leaves out the first `drop` vertices of each side, and adds a structure of voxels in a row.

    Args:
      below: (T, G) values of the voxels, which lie side by side along an axis of the volume.
      along: this axis.
    """
    vertices = np.arange(drop, N)
    models = [
        cifti2.BrainModelAxis.from_surface(vertices, N, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side, data in (("LEFT", left), ("RIGHT", right))
        if data is not None
    ]
    data = [x[:, drop:] for x in (left, right) if x is not None]
    if below is not None:
        voxels = np.ones(np.roll((below.shape[1], 1, 1), along), bool)
        models.insert(1, cifti2.BrainModelAxis.from_mask(voxels, "thalamus_left", affine=np.eye(4)))
        data.insert(1, below.astype(np.float32))
    axis = sum(models[1:], models[0])
    header = cifti2.Cifti2Header.from_axes((cifti2.SeriesAxis(0, tr, len(data[0]), "SECOND"), axis))
    nibabel.save(cifti2.Cifti2Image(np.concatenate(data, 1), header), path)
