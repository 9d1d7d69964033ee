"""Confounds: read from run tables and spreadsheets, and taken out by what training samples say."""

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.input.sources import parse_sources
from fmrifm.probe.cohort.confound_removal import (
    Confound,
    as_columns,
    association,
    combat,
    impute,
    make_removal,
    read_confounds,
    regress,
)
from fmrifm.probe.samples.labels import parse_target
from fmrifm.probe.samples.samples import make_samples
from tests.data_tools.store.small_stores import write_small_store

FIELDS = ("fd_mean", "source_tr", "site", "age", "sex", "iq")


@pytest.fixture
def cohort(tmp_path):
    runs = {}
    for s in range(6):
        for visit in range(2):
            runs[f"sub-{s}_ses-{visit}"] = {
                "dataset": "toy", "subject": str(s), "kind": "ab"[s % 2], "site": "12"[s % 2],
                "age": 30 + s, "sex": "FM"[s % 2], "source_tr": 2.0,
                "qc": {"fd_mean": 0.1 * s + 0.02 * visit} if s else None,
            }  # fmt: skip
    store = write_small_store(tmp_path / "store", runs)
    sources = parse_sources(str(store.path))
    samples = make_samples(sources, parse_target("run:kind"), unit="subject", num_frames=3)
    return sources, samples


def test_confounds_of_people_are_means_over_their_runs(cohort, tmp_path):
    found = {c.name: c for c in read_confounds(*cohort, FIELDS)}
    assert list(found) == ["fd_mean", "source_tr", "site", "age", "sex"]  # of iq nothing is known
    fd = found["fd_mean"].values
    assert np.isnan(fd[0]) and np.allclose(fd[1:], 0.1 * np.arange(1, 6) + 0.01)
    assert not found["source_tr"].varies and found["age"].values.tolist() == [*range(30, 36)]
    # A site that is a number is a site all the same.
    assert found["site"].values.tolist() == ["1", "2"] * 3 and not found["site"].is_number
    columns = as_columns([found["fd_mean"], found["site"], found["sex"]])
    assert columns.shape == (6, 3) and columns[:, 1].tolist() == [1, 0] * 3
    # A spreadsheet that came later goes first.
    table = tmp_path / "table.csv"
    table.write_text("participant_id,iq,age\nsub-0,100,\nsub-1,110,71\n")
    found = {c.name: c for c in read_confounds(*cohort, FIELDS, str(table))}
    assert found["iq"].values[:2].tolist() == [100, 110] and np.isnan(found["iq"].values[2:]).all()
    assert found["age"].values[:3].tolist() == [30, 71, 32]
    with pytest.raises(InputError, match="no column 'shoe'"):
        read_confounds(*cohort, ("shoe",), str(table))


def test_association():
    groups = np.array([f"{g}" for g in range(40)])
    labels = np.array(["a", "b"])[np.arange(40) % 2]
    rng = np.random.default_rng(0)
    apart = Confound("fd_mean", rng.normal(size=40) + 2 * (labels == "b"))
    alike = Confound("age", rng.normal(size=40))
    site = Confound(
        "site", np.where(np.arange(40) % 10 < 2, "x", np.where(labels == "a", "y", "z"))
    )
    assert association(apart, labels, groups) < 0.001 and association(site, labels, groups) < 0.001
    assert association(alike, labels, groups) > 0.05
    assert association(Confound("n", np.ones(40)), labels, groups) is None
    ages = (alike.values + rng.normal(size=40) / 9)[:, None]
    assert association(alike, ages, groups) < 0.001 < association(apart, ages, groups)
    assert association(site, ages, groups) > 0.05


def draw(seed=0):
    rng = np.random.default_rng(seed)
    sites = np.array(["x", "y"])[np.arange(60) % 2]
    motion = rng.normal(size=60)
    x_SxD = rng.normal(size=(60, 8)).astype(np.float32)
    x_SxD += motion[:, None] * np.arange(8) + 5 * (sites == "y")[:, None]
    x_SxD[sites == "y"] *= 2
    return x_SxD, motion, sites


def test_regression_takes_out_what_training_samples_say():
    x_SxD, motion, sites = draw()
    confounds = [Confound("fd_mean", motion), Confound("site", sites)]
    (step,) = make_removal("regress", confounds, "site")
    train = np.arange(40)
    clean = step(x_SxD, train)
    assert abs(np.corrcoef(clean[train].T, motion[train])[-1, :-1]).max() < 1e-5
    assert abs(np.corrcoef(clean[40:].T, motion[40:])[-1, :-1]).mean() < 0.35
    # The tested have no say in it.
    other = x_SxD.copy()
    other[40:] += 100
    np.testing.assert_array_equal(step(other, train)[train], clean[train])
    assert step.func is regress and make_removal("none", confounds, "site") == []
    with pytest.raises(InputError, match="No confound is known that varies"):
        make_removal("regress", [Confound("n", np.ones(4))], "site")


def test_combat_takes_out_sites_by_what_training_samples_say():
    x_SxD, _, sites = draw()
    (step,) = make_removal("combat", [Confound("site", sites)], "site")
    train = np.arange(40)
    clean = step(x_SxD, train)
    for some in (clean[:40], clean[40:]):
        there = sites[: len(some)] == "y"
        gap = abs(some[there].mean() - some[~there].mean())
        assert gap < 0.6, gap  # of 8
    other = x_SxD.copy()
    other[41:] += 100
    np.testing.assert_array_equal(step(other, train)[:41], clean[:41])
    few = np.array(["x"] * 59 + ["y"])
    with pytest.raises(InputError, match="cannot learn of site 'y'"):
        combat(few, x_SxD, train)
    with pytest.raises(InputError, match="needs sites"):
        make_removal("combat", [Confound("age", np.arange(60.0))], "site")


def test_unknown_values_become_the_median_of_those_learned_from():
    x_SxD = np.array([[1.0], [3.0], [np.nan], [100.0], [np.nan]], np.float32)
    assert impute(x_SxD, np.array([0, 1, 2])).ravel().tolist() == [1, 3, 2, 100, 2]
