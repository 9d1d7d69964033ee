"""The cortex of volumes: cubes as published, orientation and grid of runs, pictures, conversion."""

import numpy as np
import pytest
from nibabel import Nifti1Image
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation

from data_tools import convert_hcp
from data_tools.convert import __main__ as convert
from data_tools.errors import InputError
from data_tools.readers.volume_run import (
    MNI_AFFINE,
    MNI_SHAPE,
    is_volume,
    read_cortex,
    read_volume_run,
)
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.spaces.volume_map import build_volume_map
from data_tools.store.reader import Store

# A slab of the right hemisphere and a cube at the far corner, where the grid is padded.
CORTEX = np.zeros(MNI_SHAPE[::-1], bool)
CORTEX[40:52, 50:60, 60:75] = True
CORTEX[88:, 104:, 88:] = True
# One voxel below and one above a tenth of a cube: 51 and 52 of 512.
CORTEX[0, 0, :8] = CORTEX[0, 1:6, :8] = True
CORTEX[0, 6, :3] = True
CORTEX[8:9, :6, :8] = True
CORTEX[8, 6, :4] = True


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """The cortex as labels in the orientation of FSL's template, x from right to left."""
    path = tmp_path_factory.mktemp("atlas") / "atlas.nii.gz"
    values = (CORTEX.T * np.arange(1, MNI_SHAPE[0] + 1)[:, None, None]).astype(np.int16)[::-1]
    affine = MNI_AFFINE.copy()
    affine[0] = (-2, 0, 0, 90)
    Nifti1Image(values, affine).to_filename(path)
    return path


def write_run(path, frames_TxZxYxX, affine=MNI_AFFINE, tr=1.0):
    image = Nifti1Image(np.ascontiguousarray(frames_TxZxYxX.T, np.float32), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return path


def ramp(n_frames):
    """(T, Z, Y, X): linear in mm, so that interpolation cannot change it."""
    z, y, x = np.ogrid[: MNI_SHAPE[2], : MNI_SHAPE[1], : MNI_SHAPE[0]]
    mm = (2 * x - 90) + 3 * (2 * y - 126) + 7 * (2 * z - 72)
    return np.arange(1, n_frames + 1)[:, None, None, None] * mm.astype(np.float32)


def test_cubes_are_as_published():
    space_map = build_volume_map(CORTEX)
    geometry = space_map.geometry
    assert geometry.patch_shape == (1, 512) and geometry.width == CORTEX.sum()
    voxels = np.random.default_rng(0).normal(size=(2, CORTEX.sum())).astype(np.float32)
    volume = np.zeros((2, 96, 112, 96), np.float32)
    mask = np.zeros((96, 112, 96), bool)
    mask[:91, :109, :91] = CORTEX
    volume[:, mask] = voxels
    rows, valid = [], []
    for z in range(0, 96, 8):
        for y in range(0, 112, 8):
            for x in range(0, 96, 8):
                cube = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
                if mask[cube].mean() > 0.10:
                    rows.append(volume[(slice(None), *cube)].reshape(2, -1))
                    valid.append(mask[cube].reshape(-1))
    np.testing.assert_array_equal(geometry.mask, valid)
    np.testing.assert_array_equal(geometry.from_columns(voxels), np.stack(rows, 1))
    # The cube with 51 voxels is too empty, the one with 52 is not.
    z, y, x = np.nonzero(CORTEX)
    corner = (y < 8) & (x < 8)
    assert corner.sum() == 51 + 52
    np.testing.assert_array_equal(space_map.kept[corner], z[corner] >= 8)
    kept = voxels * space_map.kept
    np.testing.assert_array_equal(geometry.to_columns(geometry.from_columns(voxels)), kept)
    sample, lost = space_map.without(np.arange(len(space_map.kept)) == 700)
    np.testing.assert_array_equal(
        geometry.pixels_to_patches(sample(voxels)), geometry.from_columns(voxels)
    )
    assert lost.sum() == 1 and geometry.columns[geometry.mask][lost] == [700]


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR"])
def test_orientation_does_not_matter(tmp_path, labels, codes):
    assert np.array_equal(read_cortex(labels), CORTEX)
    frames = np.random.default_rng(0).normal(size=(3, *CORTEX.shape)).astype(np.float32)
    image = Nifti1Image(frames.T, MNI_AFFINE)
    orientation = axcodes2ornt(codes)
    turn = np.array(io_orientation(MNI_AFFINE))
    turned = apply_orientation(image.get_fdata(), invert(orientation))
    affine = MNI_AFFINE @ inv_ornt_aff(invert(orientation), MNI_SHAPE)
    assert turn[0, 0] == 0
    path = write_run(tmp_path / "run.nii.gz", turned.T, affine, tr=0.72)
    run = read_volume_run(path, cortex_ZxYxX=CORTEX)
    np.testing.assert_array_equal(run.values, frames[:, CORTEX])
    assert run.tr == 0.72 and run.n_frames == 3


def invert(orientation):
    """The turn from RAS to an orientation."""
    inverse = np.empty_like(orientation)
    for i, (axis, flip) in enumerate(orientation):
        inverse[int(axis)] = (i, flip)
    return inverse


def test_other_grids_are_interpolated_linearly(tmp_path):
    """1.6 mm, the grid of HCP at 7T, laid over the same brain."""
    shape, affine = (113, 136, 113), np.diag([1.6, 1.6, 1.6, 1.0])
    affine[:3, 3] = MNI_AFFINE[:3, 3]
    z, y, x = np.ogrid[: shape[2], : shape[1], : shape[0]]
    mm = (1.6 * x - 90) + 3 * (1.6 * y - 126) + 7 * (1.6 * z - 72)
    frames = np.arange(1, 18)[:, None, None, None] * mm.astype(np.float32)
    path = write_run(tmp_path / "run.nii.gz", frames, affine)
    cortex = CORTEX.copy()
    cortex[88:] = False  # beyond what was scanned
    run = read_volume_run(path, cortex_ZxYxX=cortex)
    np.testing.assert_allclose(run.values, ramp(17)[:, cortex], rtol=1e-4, atol=0.05)


def test_pictures_show_voxels_where_the_cortex_is():
    x = 2 * np.arange(MNI_SHAPE[0]) - 90
    whole = np.ones_like(CORTEX)
    geometry = build_volume_map(whole).geometry
    # Every voxel holds its x: the left hemisphere is left of 0 on the flat map, and smoothly so.
    values = np.broadcast_to(x, whole.shape)[whole].astype(np.float32)
    image = geometry.to_image(geometry.from_columns(values))
    mask = standard_flat_map("fsaverage5").geometry.mask
    np.testing.assert_array_equal(np.isfinite(image), mask)
    assert np.nanmax(image[:, :280]) <= 4 and np.nanmin(image[:, 280:]) >= -4
    assert np.nanmin(image) < -60 and np.nanmax(image) > 60
    few = build_volume_map(CORTEX).geometry
    assert 0 < few.image_mask.sum() < mask.sum() / 4


def test_convert_volumes_of_a_tree(tmp_path, labels, capsys):
    rng = np.random.default_rng(0)
    func = tmp_path / "fmriprep" / "sub-01" / "func"
    func.mkdir(parents=True)
    stem = "sub-01_task-rest_space-MNI152NLin6Asym_res-2_desc-preproc_bold"
    frames = np.zeros((20, *CORTEX.shape), np.float32)
    frames[:, CORTEX] = rng.normal(100, 5, size=(20, CORTEX.sum()))
    frames[:, 45, 55, 65] = 7  # a voxel without data
    write_run(func / f"{stem}.nii.gz", frames)
    write_run(func / "sub-01_task-rest_space-T1w_desc-preproc_bold.nii.gz", frames[:2])
    (func / "sub-01_task-rest_events.tsv").write_text("onset\tduration\ttrial_type\n2.0\t4.0\tgo\n")
    arguments = [f"--input={tmp_path / 'fmriprep'}", f"--output={tmp_path / 'store'}"]
    convert.main([*arguments, f"--cortex={labels}", "--dry-run"])
    assert "1 runs, 20 frames" in capsys.readouterr().out
    convert.main([*arguments, f"--cortex={labels}"])
    store = Store(tmp_path / "store")
    assert [run["key"] for run in store.runs] == ["sub-01_task-rest"]
    assert store.runs[0]["events"][0]["trial_type"] == "go"
    assert store.geometry.space == "mni_cortex" and store.preprocessing["chain"] == "pixel"
    values = frames[:, CORTEX]
    mean = values.mean(0) * (values.std(0) > 0)
    np.testing.assert_allclose(
        store.scale(0), store.geometry.from_columns(np.stack([mean, values.std(0)])), atol=1e-3
    )
    z = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1)
    np.testing.assert_allclose(store.read(0, 0, 20), store.geometry.from_columns(z), atol=2e-3)
    place = store.geometry.from_columns(np.arange(CORTEX.sum()))
    lost = np.flatnonzero(frames.std(0)[CORTEX] == 0)
    assert place.reshape(-1)[store.missing(0)].tolist() == lost.tolist()


def test_convert_hcp_takes_volumes(tmp_path, labels, capsys):
    folder = tmp_path / "hcp" / "100307" / "MNINonLinear" / "Results" / "tfMRI_WM_LR"
    folder.mkdir(parents=True)
    frames = np.random.default_rng(0).normal(size=(24, *CORTEX.shape)).astype(np.float32)
    write_run(folder / "tfMRI_WM_LR.nii.gz", frames, tr=0.72)
    convert_hcp.main(
        [f"--input={tmp_path / 'hcp'}", f"--output={tmp_path / 'store'}", f"--cortex={labels}"]
    )
    store = Store(tmp_path / "store")
    assert store.runs[0]["key"] == "sub-100307_mod-tfMRI_task-WM_mag-3T_dir-LR"
    assert store.runs[0]["source_tr"] == 0.72 and store.tr == 1.0


@pytest.mark.parametrize("what", ["3-D", "space", "no volume", "surface", "truncated", "place"])
def test_bad_volumes_are_told_in_one_sentence(tmp_path, labels, what, capsys):
    path = tmp_path / "sub-01_space-MNI152NLin6Asym_bold.nii.gz"
    frames = np.zeros((1, *CORTEX.shape), np.float32)
    if what == "3-D":
        Nifti1Image(frames[0].T, MNI_AFFINE).to_filename(path)
    elif what == "space":
        path = write_run(tmp_path / "sub-01_space-T1w_bold.nii.gz", frames)
    elif what == "place":
        Nifti1Image(frames.T, None).to_filename(path)
    elif what == "no volume":
        path = tmp_path
    elif what == "surface":
        path = tmp_path / "run.dtseries.nii"
        path.write_bytes(b"")
    else:
        write_run(path, np.random.default_rng(0).normal(size=(2, *CORTEX.shape)))
        path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(SystemExit):
        convert.main([f"--input={path}", f"--output={tmp_path / 'store'}", f"--cortex={labels}"])
    error = capsys.readouterr().err.splitlines()[-1]
    told = {
        "3-D": "no time series",
        "space": "in the space T1w",
        "no volume": "no volume in MNI152",
    }
    told |= {"surface": "--cortex is for volumes", "truncated": "damaged or incomplete"}
    told["place"] = "does not say where its voxels lie"
    assert error.startswith("error: ") and told[what] in error
    assert not list(tmp_path.glob("store*"))


def test_an_empty_cortex_is_refused(tmp_path):
    path = tmp_path / "mask.nii.gz"
    Nifti1Image(np.zeros(MNI_SHAPE, np.float32), MNI_AFFINE).to_filename(path)
    with pytest.raises(InputError, match="no voxel above 0"):
        read_cortex(path)
    Nifti1Image(np.ones(MNI_SHAPE, np.float32), None).to_filename(path)
    with pytest.raises(InputError, match="sform and qform codes are 0"):
        read_cortex(path)
    thin = np.zeros_like(CORTEX)
    thin[0, 0, 0] = True
    with pytest.raises(InputError, match="enough cortex"):
        build_volume_map(thin)


def test_names_of_volumes():
    assert is_volume("a_bold.nii.gz") and is_volume("A.NII")
    assert not any(map(is_volume, ("a.dtseries.nii", "a.dlabel.nii", "a.func.gii", "a.nii.txt")))
