"""Stores that a model was not trained for are refused, or told of, with the fix."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.timeseries.recipe import Recipe
from fmrifm.input.sources import parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.model.options import ModelOptions
from fmrifm.probe.samples.compatibility import check_compatible, clip_length
from tests.data_tools.store.small_stores import small_geometry, write_small_store

USUAL = Recipe().describe()


def model(geometry=None, **preprocessing):
    """A model of stores that were converted as usual at 1 s; it needs no weights."""
    geometry = geometry or small_geometry()
    options = ModelOptions(
        grid=geometry.grid, patch_shape=geometry.patch_shape, num_frames=16, t_patch=4,
        embed_dim=16, depth=1, num_heads=1,
    )  # fmt: skip
    told = {"normalize": "frame", "tr": 1.0, "stores": [USUAL]} | preprocessing
    return ModelFiles(options, {}, geometry, told, [])


@pytest.fixture
def store(tmp_path):
    def write(name="store", **settings):
        settings = {"preprocessing": USUAL} | settings
        write_small_store(tmp_path / name, {"run": {}}, **settings)
        return parse_sources(str(tmp_path / name))

    return write


def test_the_same_preprocessing_is_no_matter(store):
    assert check_compatible(model(), store()) == []
    assert check_compatible(model(), store("rounded", tr=1.009)) == []


def test_another_tr_is_refused_with_the_fix(store):
    sources = store(tr=0.72)
    told = "store has a TR of 0.72 s and the model was trained at 1 s: .* --target-tr=1"
    with pytest.raises(InputError, match=told):
        check_compatible(model(), sources)
    (warning,) = check_compatible(model(), sources * 2, strict=False)  # a store twice: told once
    assert "--target-tr=1." in warning
    assert check_compatible(model(tr=0.72), sources) == []


@pytest.mark.parametrize(
    "change, told",
    [
        ({"chain": "pixel"}, "(chain pixel, not vertex)"),
        ({"zscore": "none"}, "(z-score none, not population std"),
        ({"highpass": 0.01}, "(high-pass 0.01, not none)"),
        ({"lowpass": 0.1}, "(low-pass 0.1, not none)"),
        ({"confounds": ["motion6", "csf"]}, "(confounds taken out motion6, csf, not none)"),
        ({"kind": "linear", "filter": None}, "(resampling linear, not pchip; filter of the"),
        ({"kind": "linear", "target_tr": None}, None),  # a kind that was never used
        ({"seconds": [0, 60], "min_frames": 32}, None),
    ],
)
def test_another_preprocessing_is_told(store, change, told):
    warnings = check_compatible(model(), store(preprocessing=USUAL | change))
    assert len(warnings) == (told is not None)
    if told:
        assert told in warnings[0] and "store was preprocessed in another way" in warnings[0]
        # One of several training stores like this one is enough.
        files = model(stores=[USUAL, {**USUAL, **change}])
        assert check_compatible(files, store("again", preprocessing=USUAL | change)) == []


def test_confounds_have_no_order(store):
    files = model(stores=[USUAL | {"confounds": ["csf", "motion6"]}])
    sources = store(preprocessing=USUAL | {"confounds": ["motion6", "csf"]})
    assert check_compatible(files, sources) == []


@pytest.mark.parametrize("told", [{}, {"tr": None, "stores": None}, {"stores": ["vertex", {}]}])
def test_a_model_that_does_not_tell_is_not_complained_about(store, told):
    files = dataclasses.replace(model(), preprocessing={"normalize": "frame", **told})
    assert check_compatible(files, store(tr=2.0, preprocessing=USUAL | {"chain": "pixel"})) == []


def test_another_grid_or_space_is_refused_even_if_not_strict(store):
    taller = Geometry("toy", np.ones((12, 12), bool), (4, 4))
    with pytest.raises(InputError, match="store has a grid of 8 x 12 .* the model one of 12 x 12"):
        check_compatible(model(taller), store(), strict=False)
    ours, other = (dataclasses.replace(small_geometry(), source_sha256=c) for c in "ab")
    with pytest.raises(InputError, match="other parcels or voxels"):
        check_compatible(model(other), store("parcels", geometry=ours), strict=False)
    finer = dataclasses.replace(small_geometry(), patch_shape=(2, 2))
    assert check_compatible(model(finer), store("cut")) == []  # a model may cut its patches
    with pytest.raises(InputError, match="fine has a grid of .* in patches of 2 x 2, the model"):
        check_compatible(model(), store("fine", geometry=finer), strict=False)


@pytest.mark.parametrize("columns, n_warnings", [(0, 0), (1, 1)])
def test_a_store_that_lacks_pixels_is_told(store, columns, n_warnings):
    """The model's mask is 6 x 7 pixels; pixels beyond it are no matter."""
    mask = small_geometry().mask.copy()
    mask[1:7, 2 : 2 + columns] = False
    mask[0, :] = True
    geometry = dataclasses.replace(small_geometry(), mask=mask)
    warnings = check_compatible(model(), store(geometry=geometry))
    assert len(warnings) == n_warnings
    if warnings:
        assert "store has 85.7% of the pixels" in warnings[0]


def test_a_flat_map_that_shows_other_cortex_is_told(store):
    """The mask of the model lies within that of the store, which holds a third more."""
    geometry = dataclasses.replace(small_geometry(), pixel_size=1.2)
    mask = geometry.mask.copy()
    mask[0] = mask[7, :2] = True
    (warning,) = check_compatible(
        model(geometry), store(geometry=dataclasses.replace(geometry, mask=mask))
    )
    assert "has 100.0% of the pixels" in warning and "masks overlap by 75.0%" in warning
    mask[0, 2:], mask[7, :2] = False, False
    assert check_compatible(model(geometry), store("o", geometry=geometry)) == []


def test_a_model_of_images_takes_no_clips():
    assert clip_length(SimpleNamespace(options=SimpleNamespace(num_frames=16, in_chans=1))) == 16
    for num_frames, in_chans in ((None, 1), (16, 3)):
        options = SimpleNamespace(num_frames=num_frames, in_chans=in_chans)
        with pytest.raises(InputError, match="model of images"):
            clip_length(SimpleNamespace(options=options))
