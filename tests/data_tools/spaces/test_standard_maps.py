"""The standard maps: sizes, alignment of the two, provenance, and maps of given files."""

import hashlib
import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiDataArray, GiftiImage

import data_tools.spaces.data
from data_tools.errors import InputError
from data_tools.spaces.standard_maps import (
    STANDARD_SPACES,
    fsaverage5_file,
    fsaverage5_surfaces,
    nearest_fsaverage5,
    read_flat_map,
    standard_cortex,
    standard_flat_map,
    standard_surfaces,
    surfaces_provenance,
)

SIDES = ("left", "right")
FSLR_FILE = Path(data_tools.spaces.data.__file__).parent / "fsLR_32k_flat.npz"


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _image(flat_map, values_X):
    """The (H, W) frame of values at the vertices, NaN where the map has none."""
    image = np.full(flat_map.geometry.mask.shape, np.nan)
    image[flat_map.geometry.mask] = flat_map.sample(values_X[None])[0]
    return image


@pytest.mark.parametrize(
    "space, n_vertices, n_pixels, n_patches",
    [("fsaverage5", 10242, 77609, 363), ("fsLR-32k", 32492, 78812, 365)],
)
def test_standard_map(space, n_vertices, n_pixels, n_patches):
    flat_map = standard_flat_map(space)
    assert flat_map is standard_flat_map(space) and flat_map is read_flat_map(space=space)
    geometry = flat_map.geometry
    assert geometry.space == f"flat-{space}" and geometry.mask.shape == (224, 560)
    assert abs(geometry.n_pixels - n_pixels) <= 50 and geometry.n_patches == n_patches
    assert (flat_map.left, flat_map.right) == (n_vertices, n_vertices)
    ones = np.ones((70, 2 * n_vertices), np.float32)
    np.testing.assert_allclose(flat_map.sample(ones), 1, atol=2e-7)
    assert (flat_map.linear.data >= 0).all()
    # No pixel blends the hemispheres, and all values come from kept vertices.
    from_left = flat_map.linear[:, :n_vertices].sum(1)
    assert np.isin(np.round(from_left, 5), (0, 1)).all()
    assert flat_map.kept[flat_map.nearest].all() and flat_map.kept[flat_map.linear.indices].all()


@pytest.mark.parametrize("space", STANDARD_SPACES)
def test_pixels_are_where_their_values_say(space):
    """Sampling the coordinates of the vertices gives the coordinates of the pixels."""
    flat_map = standard_flat_map(space)
    points = np.concatenate([points for points, _ in standard_surfaces(space)])
    row, column = np.nonzero(flat_map.geometry.mask)
    y = flat_map.sample(points[None, :, 1])[0]
    np.testing.assert_allclose(y, 146 - 1.2 * row, atol=1e-4)
    for side in (column < 280, column >= 280):
        shift = flat_map.sample(points[None, :, 0])[0] - (-336 + 1.2 * column)
        np.testing.assert_allclose(shift[side], np.median(shift[side]), atol=1e-4)
        from_nearest = points[flat_map.nearest, 0] - (-336 + 1.2 * column)
        assert abs(from_nearest[side] - np.median(shift[side])).mean() < 1.5


@pytest.mark.parametrize(
    "space, left, right, used",
    # Flattening fsaverage5 cut away some of its cortex.
    [("fsaverage5", 9354, 9361, 0.985), ("fsLR-32k", 29696, 29716, 0.999)],
)
def test_the_map_is_of_cortex(space, left, right, used):
    cortex = standard_cortex(space)
    assert (cortex[0].sum(), cortex[1].sum()) == (left, right)
    kept = standard_flat_map(space).kept
    assert not (kept & ~np.concatenate(cortex)).any()
    assert kept.sum() / (left + right) > used


def test_mesh_of_fslr_is_a_sphere():
    (points, left), (_, right) = standard_surfaces("fsLR-32k")
    np.testing.assert_array_equal(left, right)
    assert len(np.unique(left)) == len(points) == 32492
    edges = np.sort(left[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all() and len(points) - len(count) + len(left) == 2


def test_both_maps_show_the_same_place_at_the_same_pixel():
    fsaverage5, fslr = (standard_flat_map(space) for space in STANDARD_SPACES)
    masks = fsaverage5.geometry.mask, fslr.geometry.mask
    both = masks[0] & masks[1]
    assert both.sum() / (masks[0] | masks[1]).sum() > 0.975
    # Nearly all of it is on the flat surface; the rest bridges the narrow ends of cuts.
    whole = read_flat_map(fsaverage5_surfaces()).geometry
    assert whole.space == "flat-fsaverage5" and whole.n_patches == 368
    assert abs(whole.n_pixels - 80007) <= 50
    assert (masks[1] & ~whole.mask).sum() < 0.002 * masks[1].sum()

    depth = np.concatenate(
        [nibabel.load(fsaverage5_file(f"sulc_{side}.gii.gz")).darrays[0].data for side in SIDES]
    )
    expected = _image(fsaverage5, depth)
    carried = _image(fslr, depth[nearest_fsaverage5()])
    assert np.corrcoef(expected[both], carried[both])[0, 1] > 0.99
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        moved = np.roll(carried, step, axis)
        inside = both & np.isfinite(moved)
        assert np.corrcoef(expected[inside], moved[inside])[0, 1] < 0.99


def test_folds_of_another_fslr_brain_lie_where_those_of_fsaverage5_do():
    """A wrong registration gives a correlation near 0."""
    spec = importlib.util.find_spec("brainspace")
    if spec is None:
        pytest.skip("the extra `demo` is not installed")
    folder = Path(spec.submodule_search_locations[0], "datasets", "matrices", "main_group")
    conte69 = np.nan_to_num(np.loadtxt(folder / "conte69_32k_curvature.csv"))
    curvature = np.concatenate(
        [nibabel.load(fsaverage5_file(f"curv_{side}.gii.gz")).darrays[0].data for side in SIDES]
    )
    fsaverage5, fslr = (standard_flat_map(space) for space in STANDARD_SPACES)
    folds = _image(fsaverage5, curvature), -_image(fslr, conte69)
    both = fsaverage5.geometry.mask & fslr.geometry.mask
    assert np.corrcoef(folds[0][both], folds[1][both])[0, 1] > 0.8


def test_nearest_fsaverage5_is_cortex_of_the_same_side():
    nearest = nearest_fsaverage5()
    assert nearest.shape == (64984,) and nearest.dtype == np.int32
    assert ((nearest < 10242) == (np.arange(64984) < 32492)).all()
    assert np.concatenate(standard_cortex("fsaverage5"))[nearest].all()
    # fsLR-32k is three times as fine: hardly a vertex is left out.
    assert len(np.unique(nearest)) > 0.99 * np.concatenate(standard_cortex("fsaverage5")).sum()


def test_regions_and_surfaces_of_given_files(tmp_path):
    whole = standard_flat_map("fsLR-32k").geometry
    surfaces, rois = [], []
    for side, (points, triangles) in zip(SIDES, standard_surfaces("fsLR-32k"), strict=True):
        arrays = [
            GiftiDataArray(points.astype(np.float32), "NIFTI_INTENT_POINTSET"),
            GiftiDataArray(triangles, "NIFTI_INTENT_TRIANGLE"),
        ]
        surfaces.append(tmp_path / f"{side}.flat.surf.gii")
        nibabel.save(GiftiImage(darrays=arrays), surfaces[-1])
        rois.append(tmp_path / f"{side}.shape.gii")
        back = (points[:, 0] > 0).astype(np.float32)
        nibabel.save(GiftiImage(darrays=[GiftiDataArray(back, "NIFTI_INTENT_SHAPE")]), rois[-1])

    part = read_flat_map(rois=rois, space="fsLR-32k").geometry
    assert part.space == "flat-fsLR-32k" and 0.3 < part.n_pixels / whole.n_pixels < 0.7
    given = read_flat_map(surfaces, rois).geometry
    assert given.space == "flat-fsLR-32k"
    np.testing.assert_array_equal(given.mask, part.mask)
    region = [{"file": path.name, "sha256": _sha256(path)} for path in rois]
    provenance = surfaces_provenance(surfaces, rois)
    assert provenance["roi"] == region
    assert provenance["surfaces"] == [{"file": p.name, "sha256": _sha256(p)} for p in surfaces]
    assert surfaces_provenance(surfaces)["roi"] is None
    assert surfaces_provenance(rois=rois, space="fsLR-32k")["roi"] == region


def test_provenance_of_standard_maps():
    ours = {"file": FSLR_FILE.name, "sha256": _sha256(FSLR_FILE)}
    nilearns = [{"file": path.name, "sha256": _sha256(path)} for path in fsaverage5_surfaces()]
    fsaverage5 = surfaces_provenance()
    assert fsaverage5["surfaces"] == nilearns
    assert [item["file"] for item in fsaverage5["roi"]] == ["fsaverage5_cortex.npz"]
    assert surfaces_provenance(space="fsLR-32k") == {"surfaces": [*nilearns, ours], "roi": [ours]}
    assert FSLR_FILE.stat().st_size < 500_000


@pytest.mark.parametrize("call", [standard_flat_map, lambda space: read_flat_map(space=space)])
def test_other_spaces_need_their_surfaces(call):
    with pytest.raises(InputError, match="'fsaverage6', only of .*--surfaces=LEFT RIGHT"):
        call("fsaverage6")
