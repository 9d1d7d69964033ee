"""The connectome: correlations as NumPy has them, of parcels or of patches."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.sources import parse_sources
from fmrifm.probe.features.baselines import Parcels, connectomes, correlations
from fmrifm.probe.samples.labels import parse_target
from fmrifm.probe.samples.samples import make_samples
from tests.data_tools.store.small_stores import write_small_store

EVENTS = [{"onset": onset, "trial_type": "a"} for onset in (0.0, 2.0)]


def write(path, geometry, **more):
    runs = {f"sub-0{i}": {"dataset": "toy", "subject": f"0{i}", "events": EVENTS} for i in range(3)}
    rng = np.random.default_rng(len(geometry.patch_index))
    for fields in runs.values():
        shape = (9, geometry.n_patches, geometry.patch_dim)
        fields["frames_TxNxP"] = np.where(geometry.patch_mask, rng.normal(size=shape), 0).astype(
            "f2"
        )
        fields |= more
    return write_small_store(path, runs, geometry=geometry)


def test_correlations_are_those_of_numpy_and_constant_parcels_have_none():
    series = np.random.default_rng(0).normal(size=(16, 7)).astype(np.float32)
    expected = np.corrcoef(series.T)[np.triu_indices(7, 1)]
    np.testing.assert_allclose(correlations(series + 5), expected, atol=1e-5)
    series[:, 2] = 3.0
    assert np.count_nonzero(correlations(series)) == 6 * 5 / 2


def test_parcels_of_the_same_runs_and_means_of_patches(tmp_path):
    mask = np.zeros((8, 12), bool)
    mask[1:7, 2:9] = True
    flat = write(tmp_path / "flat", Geometry("toy", mask, (4, 4)), missing=np.array([5, 6]))
    parcels = write(tmp_path / "parcels", Geometry("six", np.ones((6, 1), bool), (1, 1)))
    sources = parse_sources(str(flat.path))
    samples = make_samples(sources, parse_target("event:trial_type"), unit="clip", num_frames=6)
    assert len(samples.labels) == 6

    found = connectomes(sources, samples, 6, Parcels(str(tmp_path / "parcels")))
    assert found.shape == (6, 15) and found.dtype == np.float32
    np.testing.assert_allclose(found[3], correlations(parcels.read(1, 2, 6)[..., 0].astype("f4")))
    own = connectomes(sources, samples, 6, sources[0].store.geometry)
    valid = flat.valid(1)
    frames = flat.read(1, 2, 6).astype(np.float32)
    means = np.stack([frames[:, n, valid[n]].mean(1) for n in range(flat.geometry.n_patches)], 1)
    np.testing.assert_allclose(own[3], correlations(means), atol=1e-5)


def test_runs_that_are_missing_among_parcels_are_named(tmp_path):
    geometry = Geometry("six", np.ones((6, 1), bool), (1, 1))
    store = write(tmp_path / "stores" / "train", geometry)
    sources = parse_sources(str(store.path))
    samples = make_samples(sources, parse_target("event:trial_type"), unit="clip", num_frames=6)
    frames = np.zeros((9, 6, 1), np.float16)
    one = {"sub-00": {"frames_TxNxP": frames}}
    other = write_small_store(tmp_path / "other", one, geometry=geometry)
    with pytest.raises(InputError, match="Run sub-01 is in no store"):
        Parcels(str(other.path)).check(sources, samples)
    with pytest.raises(InputError, match="Run sub-01 is in no store"):
        connectomes(sources, samples, 3, Parcels(str(other.path)))
    Parcels(str(store.path)).check(sources, samples)
    slower = {f"sub-0{i}": {"frames_TxNxP": frames[:8]} for i in range(3)}
    slower = write_small_store(tmp_path / "slower", slower, geometry=geometry)
    with pytest.raises(InputError, match="has 8 frames in .*slower and 9 in"):
        Parcels(f"{slower.path},").check(sources, samples)
    with pytest.raises(InputError, match="holds none"):
        Parcels(str(tmp_path / "nowhere"))
    assert Parcels(str(tmp_path / "stores")).name == "six"
