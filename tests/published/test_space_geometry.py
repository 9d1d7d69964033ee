"""The masks and components that weights come without."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.published import maps
from data_tools.published.maps import read_geometry
from fmrifm.published.space_geometry import load_components, space_geometry


@pytest.fixture
def no_package(monkeypatch):
    """cortex_mae is not installed."""
    monkeypatch.setattr("data_tools.published.maps.package_file", lambda: None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package by the name of the published one, which must not be imported."""
    folder = tmp_path / "site" / "cortex_mae"
    (folder / "resources").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    components = np.zeros((8, 224, 560), np.float32)
    components[0, 20:200, 30:500] = 1
    components[3, 10, 10] = 2
    np.savez_compressed(folder / "resources/flat_pca_n8_224_560.npz", components=components)
    monkeypatch.syspath_prepend(folder.parent)
    return components


def test_the_mask_of_the_installed_package(package, capsys):
    geometry = read_geometry("cortex_mae")
    np.testing.assert_array_equal(geometry.mask, (package != 0).any(0))
    assert (geometry.bbox, geometry.pixel_size) == ((-336.0, 336.0, -122.8, 146.0), 1.2)
    found = space_geometry("flat", (224, 560), (8, 8))
    assert found.patch_shape == (8, 8) and found.n_pixels == geometry.n_pixels == 180 * 470 + 1
    assert space_geometry("image", (224, 560), (8, 8)).mask.all()
    assert space_geometry("flat-fsLR-32k", (224, 560), (8, 8)).n_pixels == geometry.n_pixels
    assert capsys.readouterr().out == ""
    other = space_geometry("flat-fsaverage5", (224, 560), (8, 8))  # this mask is not its own
    assert other.mask.all() and (other.space, other.pixel_size) == ("flat-fsaverage5", 1.2)
    assert "for its mask give --geometry=STORE" in capsys.readouterr().out
    np.testing.assert_array_equal(load_components("cortex_mae", 4, (224, 560)), package[:4])


def test_spaces_without_a_mask(no_package, capsys):
    flat = space_geometry("flat", (224, 560), (16, 16))
    assert flat.mask.all() and flat.space.startswith("flat") and flat.pixel_size == 1.2
    assert "Every pixel of the flat map" in capsys.readouterr().out
    parcels = space_geometry("schaefer400", (400, 1), (1, 1))
    assert (parcels.space, parcels.n_patches, parcels.pixel_size) == ("schaefer400", 400, 0)
    cubes = space_geometry("mni_cortex", (465, 512), (1, 512))
    assert (cubes.grid, cubes.n_patches) == ((465, 1), 465)
    assert space_geometry(None, (8, 8), (4, 4)).space == "image"
    assert capsys.readouterr().out == ""


def test_components_of_a_file(tmp_path, no_package):
    components = np.random.default_rng(0).normal(size=(4, 6, 8))
    np.save(tmp_path / "a.npy", components)
    np.savez(tmp_path / "b.npz", mean=np.zeros(3), components=components)
    np.savez(tmp_path / "c.npz", components)
    for name in ("a.npy", "b.npz", "c.npz"):
        found = load_components(str(tmp_path / name), 2, (6, 8))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, components[:2].astype(np.float32))
    path = str(tmp_path / "a.npy")
    for arguments, words in [
        ((path, 5, (6, 8)), "4 components, fewer than 5"),
        ((path, 2, (8, 6)), "frames of 6 x 8 pixels, the model has 8 x 6"),
        (("cortex_mae", 2, (6, 8)), "not installed"),
        ((str(tmp_path / "none"), 2, (6, 8)), "does not exist"),
    ]:
        with pytest.raises(InputError, match=words):
            load_components(*arguments)
    for array, words in [
        (np.full((2, 6, 8), np.nan), "not finite"),
        (np.zeros((6, 8)), r"shape \(6, 8\)"),
        (np.full((1, 6, 8), "x"), "must be numbers"),
        (np.full((1, 6, 8), None), "damaged"),
    ]:
        np.save(path, array)
        with pytest.raises(InputError, match=words):
            load_components(path, 1, (6, 8))
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        load_components(str(tmp_path / "b.npz"), 2, (6, 8))


def test_published_data_tell_their_space_by_their_width(package, monkeypatch):
    monkeypatch.setattr(maps, "FLAT_WIDTH", 180 * 470 + 1)
    assert maps.geometry_of_width(180 * 470 + 1).space == "flat-fsLR-32k"
    assert maps.geometry_of_width(424).space == read_geometry("a424").space == "a424"
    other = maps.geometry_of_width(33)
    assert (other.space, other.n_patches, other.patch_dim) == ("parcels-33", 33, 1)
    with pytest.raises(InputError, match="132,032 columns are of the published cortex volume"):
        maps.geometry_of_width(132_032)
