"""Surface files: each format read back as written, and what is wrong told in one sentence."""

import gzip

import nibabel
import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.readers.surface_run import hemisphere, other_side, without_hemisphere
from data_tools.readers.surfaces import (
    read_flat_surface,
    read_roi,
    read_surface_header,
    read_surface_run,
)
from tests.data_tools.readers.surface_files import N, series, write_cifti, write_gifti, write_mgz


def assert_header_tells(run, path):
    """The header alone says what the whole run does."""
    header = read_surface_header(path)
    assert (header.n_frames, header.n_vertices[:2]) == (run.n_frames, run.n_vertices[:2])
    assert (header.tr, header.space) == (run.tr, run.space)


@pytest.mark.parametrize("kind", ["many", "one", "transposed"])
def test_gifti(tmp_path, kind):
    left, right = series(0), series(1)
    options = {"one_array": kind != "many", "transpose": kind == "transposed"}
    write_gifti(tmp_path / "sub-01_hemi-L_bold.func.gii", left, 1400, **options)
    write_gifti(tmp_path / "sub-01_hemi-R_bold.func.gii", right, **options)
    run = read_surface_run(tmp_path / "sub-01_hemi-L_bold.func.gii")
    np.testing.assert_array_equal(run.left, left)
    np.testing.assert_array_equal(run.right, right)
    assert (run.tr, run.space, run.left.dtype) == (1.4, "fsaverage5", np.float32)
    assert_header_tells(run, tmp_path / "sub-01_hemi-L_bold.func.gii")


def test_mgz(tmp_path):
    left, right = series(0), series(1)
    write_mgz(tmp_path / "a.lh.mgz", left, 735.0)
    write_mgz(tmp_path / "b.mgz", right, 735.0)
    run = read_surface_run(tmp_path / "a.lh.mgz", tmp_path / "b.mgz")
    np.testing.assert_array_equal(run.left, left)
    np.testing.assert_array_equal(run.right, right)
    assert run.tr == 0.735
    write_mgz(tmp_path / "a.rh.mgz", right)
    assert read_surface_run(tmp_path / "a.lh.mgz").tr == 0.735
    assert_header_tells(run, tmp_path / "a.lh.mgz")
    write_mgz(tmp_path / "a.rh.mgz", right, 1000.0)
    with pytest.raises(InputError, match="TR of 0.735 s and .* 1 s"):
        read_surface_run(tmp_path / "a.lh.mgz")


def test_cifti(tmp_path):
    left, right = series(0), series(1)
    path = tmp_path / "rest.dtseries.nii"
    write_cifti(path, left, right, drop=100, below=np.full((5, 7), 99))
    run = read_surface_run(path)
    np.testing.assert_array_equal(run.left[:, 100:], left[:, 100:])
    np.testing.assert_array_equal(run.right[:, 100:], right[:, 100:])
    assert not run.left[:, :100].any() and not run.right[:, :100].any()
    assert run.tr == 0.72 and run.voxels is None
    assert_header_tells(run, path)
    whole, header = read_surface_run(path, whole=True), read_surface_header(path)
    np.testing.assert_array_equal(whole.voxels, np.full((5, 7), 99))
    np.testing.assert_array_equal(whole.right, run.right)
    assert whole.n_vertices == header.n_vertices == (N, N, 7)
    assert whole.voxels_sha256 == header.voxels_sha256 != ""
    assert header.space == "fsaverage5" and "with 7 voxels" in header.grayordinates
    write_cifti(path, left, None)
    with pytest.raises(InputError, match="no right cortex"):
        read_surface_run(path)


def test_other_forms_are_read_or_named(tmp_path):
    left, right = series(0), series(1)
    plain = tmp_path / "a.dtseries.nii"
    write_cifti(plain, left, right, drop=100)
    packed = tmp_path / "b.dtseries.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    run = read_surface_run(packed)
    np.testing.assert_array_equal(run.right, read_surface_run(plain).right)
    assert_header_tells(run, packed)
    # FreeSurfer writes series of a surface as NIfTI too.
    for side, data in zip("lr", (left, right), strict=True):
        image = nibabel.Nifti1Image(data.T[:, None, None, :].copy(), np.eye(4))
        image.header.set_zooms((1, 1, 1, 2.0))
        nibabel.save(image, tmp_path / f"{side}h.f.nii.gz")
    run = read_surface_run(tmp_path / "lh.f.nii.gz")
    np.testing.assert_array_equal(run.right, right)
    assert run.tr == 2.0
    assert_header_tells(run, tmp_path / "lh.f.nii.gz")
    plain.write_bytes(plain.read_bytes().replace(b'<CIFTI Version="2.0"', b'<CIFTI Version="1.0"'))
    packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    for path in (plain, packed):
        for read in (read_surface_run, read_surface_header):
            with pytest.raises(InputError, match="is CIFTI-1: convert it with `wb_command"):
                read(path)


def test_roi(tmp_path):
    roi = np.arange(N) % 3 > 0
    write_mgz(tmp_path / "lh.roi.mgz", roi[None].astype(np.float32))
    write_gifti(tmp_path / "lh.roi.gii", roi[None].astype(np.float32))
    np.testing.assert_array_equal(read_roi(tmp_path / "lh.roi.mgz"), roi)
    np.testing.assert_array_equal(read_roi(tmp_path / "lh.roi.gii"), roi)


@pytest.mark.parametrize(
    "left, right, bare",
    [
        ("sub-01.fsa5.lh.mgz", "sub-01.fsa5.rh.mgz", "sub-01.fsa5.mgz"),
        ("lh.rest.mgh", "rh.rest.mgh", "rest.mgh"),
        ("sub-lh_hemi-L_bold.func.gii", "sub-lh_hemi-R_bold.func.gii", "sub-lh_bold.func.gii"),
        ("100307.L.32k.func.gii", "100307.R.32k.func.gii", "100307.32k.func.gii"),
        ("flat_left.gii.gz", "flat_right.gii.gz", "flat.gii.gz"),
        ("t_left.R.x.L.func.gii", "t_left.R.x.R.func.gii", "t_left.R.x.func.gii"),
        ("7.rh_left_L_bold.gii", "7.rh_left_R_bold.gii", "7.rh_left_bold.gii"),
        ("lh.tap_right.mgz", "rh.tap_right.mgz", "tap_right.mgz"),
        ("fmcpr.fsaverage.lh.nii.gz", "fmcpr.fsaverage.rh.nii.gz", "fmcpr.fsaverage.nii.gz"),
    ],
)
def test_hemispheres_by_name(left, right, bare):
    assert (hemisphere(left), hemisphere(right)) == ("left", "right")
    assert (other_side(left), other_side(right)) == (right, left)
    assert without_hemisphere(left) == without_hemisphere(right) == bare
    assert hemisphere("sub-01_task-Left2_bold.dtseries.nii") is None
    assert hemisphere("sub-L_task-left_bold.func.gii") is None  # tasks are no hemispheres


def test_a_name_without_a_side_has_no_other_side():
    with pytest.raises(InputError, match="sub-01_bold.func.gii does not say its hemisphere"):
        other_side("sub-01_bold.func.gii")


def test_files_of_other_kinds_are_not_called_damaged(tmp_path):
    for name in ("lh.cortex.label", "lh.x.annot", "a.npy"):
        (tmp_path / name).write_bytes(b"whole")
        for read in (read_roi, read_flat_surface):
            with pytest.raises(InputError, match=f"{name} is of a kind that is not read here"):
                read(tmp_path / name)


def test_what_is_wrong_is_one_sentence(tmp_path):
    lone = tmp_path / "a.lh.mgz"
    write_mgz(lone, series())

    def fails(words, *args):
        with pytest.raises(InputError, match=words) as caught:
            read_surface_run(*args)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")

    fails("no right hemisphere beside it: put a.rh.mgz", lone)
    fails("does not exist", tmp_path / "b.lh.mgz", lone)
    fails("has 5 frames and .* has 3", lone, _written(tmp_path / "c.rh.mgz", series(1, 3)))
    fails("does not say its hemisphere", _written(tmp_path / "d.mgz", series()))
    fails("is a right hemisphere", tmp_path / "c.rh.mgz")
    for name, write in (
        ("t.lh.mgz", write_mgz),
        ("t.lh.func.gii", write_gifti),
        ("t.dtseries.nii", lambda path, data: write_cifti(path, data, data)),
    ):
        path = tmp_path / name
        write(path, series())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        fails("damaged or incomplete", path, lone)
    (tmp_path / "x.lh.mgz").write_text("no image")
    fails("damaged or incomplete", tmp_path / "x.lh.mgz", lone)
    with pytest.raises(InputError, match="holds no surface"):
        write_gifti(tmp_path / "y.gii", series())
        read_flat_surface(tmp_path / "y.gii")


def _written(path, data):
    write_mgz(path, data)
    return path
