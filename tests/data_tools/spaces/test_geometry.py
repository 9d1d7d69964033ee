"""The geometry: pixels, frames and patches are the same values in another order."""

import dataclasses

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry, load_geometry


@pytest.fixture
def geometry() -> Geometry:
    mask = np.random.default_rng(0).random((12, 20)) < 0.2
    mask[:4, :10] = False
    return Geometry("toy", mask, (4, 5), bbox=(0.0, 20.0, 0.0, 12.0), pixel_size=1.0)


def test_pixels_frames_and_patches_agree(geometry):
    frames = np.random.default_rng(1).normal(size=(3, 12, 20)) * geometry.mask
    patches = geometry.to_patches(frames)
    assert patches.shape == (3, geometry.n_patches, 20) and 0 < geometry.n_patches <= 10
    # Patch by patch, as one would cut the image by hand.
    for patch, index in zip(patches[1], geometry.patch_index, strict=True):
        row, column = divmod(int(index), 4)
        cut = frames[1, 4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(patch, cut.ravel())
    np.testing.assert_array_equal(geometry.pixels_to_patches(frames[:, geometry.mask]), patches)
    np.testing.assert_array_equal(geometry.to_frames(patches), frames)
    assert np.isnan(geometry.to_frames(patches, fill=np.nan)[0, :4, :10]).all()


def test_file_gives_it_back_or_is_refused(geometry, tmp_path):
    path = tmp_path / "geometry.npz"
    path.write_bytes(geometry.to_bytes())
    again = load_geometry(path)
    assert again.to_bytes() == geometry.to_bytes() and again.same_grid(geometry)
    assert again.overlap(geometry) == 1
    with np.load(path) as file:
        fields = dict(file)
    np.savez(path, **fields | {"patch_index": fields["patch_index"][1:]})
    with pytest.raises(InputError, match="lists other patches"):
        load_geometry(path)
    np.savez(path, **fields | {"regions": np.array(["a", "b"])})
    with pytest.raises(InputError, match="contradicts itself"):
        load_geometry(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        load_geometry(path)


def test_a_table_keeps_its_regions_picture_and_columns(tmp_path):
    mask = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)
    columns = np.array([[4, 0, -1], [-1, 2, 5], [1, -1, -1]], np.int32)
    picture = np.array([[0, 4, -1, 6], [-1, 2, 5, 5]], np.int32)
    table = Geometry("toy", mask, (1, 3), picture=picture, columns=columns, n_columns=7)
    data = np.arange(1.0, 15.0).reshape(2, 7)
    patches = table.from_columns(data)
    expected = [[5, 1, 0], [0, 3, 6], [2, 0, 0]]
    np.testing.assert_array_equal(patches[0], expected)
    dropped = np.array([1, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(table.to_columns(patches), data * dropped)
    np.testing.assert_array_equal(table.to_image(patches, 9)[0], [[5, 3, 9, 2], [9, 0, 6, 6]])
    np.testing.assert_array_equal(table.image_mask, [[1, 1, 0, 1], [0, 0, 1, 1]])
    assert table.width == 7 and table.is_image

    parcels = Geometry("p", np.ones((3, 1), bool), (1, 1), regions=("c", "a", "b"))
    for geometry in (table, parcels):
        path = tmp_path / "geometry.npz"
        path.write_bytes(geometry.to_bytes())
        again = load_geometry(path)
        assert again.to_bytes() == geometry.to_bytes() and again.regions == geometry.regions
        np.testing.assert_array_equal(again.columns, geometry.columns)
        np.testing.assert_array_equal(again.picture, geometry.picture)
    assert parcels.width == 3 and not parcels.is_image

    # Other parcels of the same number are another space, as far as both tell.
    named = [dataclasses.replace(parcels, source_sha256=name) for name in ("x", "y", "")]
    assert not named[0].same_grid(named[1]) and named[0].same_grid(named[2])
    for wrong in ({"columns": columns, "n_columns": 5}, {"n_columns": 7}, {"picture": picture + 9}):
        with pytest.raises(InputError, match="contradicts itself"):
            Geometry("toy", mask, (1, 3), **wrong)
