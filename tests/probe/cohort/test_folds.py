"""Folds: nobody on both sides, no class lost, everyone tested once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.input.sources import parse_sources
from fmrifm.probe.cohort.cohort import person_groups
from fmrifm.probe.cohort.folds import inner_folds, make_folds, nested_subsets
from fmrifm.probe.samples.samples import whole_runs
from tests.data_tools.store.small_stores import make_run, small_geometry, write_small_store


@st.composite
def cohorts(draw):
    """Classes, groups and sites of people with one to four visits each."""
    n_classes = draw(st.integers(2, 4))
    sizes = [draw(st.integers(2, 12)) for _ in range(n_classes)]
    trait = np.repeat(np.arange(n_classes), sizes)
    visits = np.array([draw(st.integers(1, 4)) for _ in trait])
    groups = np.repeat([f"toy/{g:02d}" for g in range(len(trait))], visits)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(groups))
    return np.repeat(trait, visits)[order], groups[order]


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.sampled_from(["kfold", "subject"]), st.integers(2, 10), st.integers(0, 5))
def test_laws_of_folds(cohort, scheme, n_folds, seed):
    labels, groups = cohort
    folds = make_folds(scheme, labels, groups, n_folds=n_folds, seed=seed)
    tested = np.concatenate([fold.test for fold in folds])
    assert sorted(tested) == list(range(len(labels)))
    for fold in folds:
        assert len(fold.test) and not set(groups[fold.test]) & set(groups[fold.train])
        assert len(fold.test) + len(fold.train) == len(labels)
        assert set(labels[fold.train]) == set(labels)
        if scheme == "kfold":  # every class is tested in every fold too
            assert set(labels[fold.test]) == set(labels)
    if scheme == "kfold":
        rarest = min(len(set(groups[labels == k])) for k in set(labels))
        assert len(folds) == min(n_folds, rarest)
        inner = inner_folds(folds[0].train, labels, groups, n_folds, seed)
        for fold in inner:
            assert {*fold.train, *fold.test} == {*folds[0].train}
            assert not set(groups[fold.test]) & set(groups[fold.train])
            assert set(labels[fold.train]) == set(labels)
        learned = folds[0].train
        if min(len(set(groups[learned][labels[learned] == k])) for k in set(labels)) < 2:
            assert not inner


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 5))
def test_smaller_sets_are_nested_and_balanced(cohort, seed):
    labels, groups = cohort
    train, before = np.arange(len(labels)), set()
    n_classes = len(set(labels))
    for n in range(n_classes, len(set(groups)) + 1):
        rows = nested_subsets(labels, groups, train, n, seed)
        assert len(set(groups[rows])) == n
        assert before <= set(rows)
        before = set(rows)
        for g in set(groups[rows]):  # whole groups
            assert set(np.flatnonzero(groups == g)) <= before
    assert before == set(train)


def test_states_vary_within_people():
    labels = np.tile([0, 1, 0, 1], 9)
    groups = np.repeat([f"{g}" for g in range(9)], 4)
    folds = make_folds("kfold", labels, groups, n_folds=4)
    assert len(folds) == 4 and sum(len(fold.test) for fold in folds) == 36
    for fold in folds:
        assert not set(groups[fold.test]) & set(groups[fold.train])
        assert set(labels[fold.test]) == {0, 1}


def test_numbers_are_dealt_by_quantiles():
    ages = np.linspace(20, 80, 40, dtype=np.float32)[:, None]
    groups = np.array([f"{g:02d}" for g in range(40)])
    for fold in make_folds("kfold", ages, groups, n_folds=5):
        assert len(fold.test) == 8 and abs(ages[fold.test].mean() - 50) < 6
    # However few there are.
    assert len(make_folds("kfold", ages[:3], groups[:3], n_folds=5)) == 3


def test_a_site_is_left_out_with_whoever_was_scanned_there():
    sites = np.array(["a", "a", "b", "b", "c", "c", "a"])
    groups = np.array(["1", "2", "3", "4", "5", "6", "3"])  # 3 travelled
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    folds = {fold.name: fold for fold in make_folds("site", labels, groups, sites)}
    assert sorted(folds) == ["a", "b", "c"]
    assert folds["a"].test.tolist() == [0, 1, 6] and folds["a"].train.tolist() == [3, 4, 5]
    assert folds["b"].train.tolist() == [0, 1, 4, 5]
    assert folds["c"].train.tolist() == [0, 1, 2, 3, 6]


@pytest.mark.parametrize(
    "scheme, labels, groups, sites, message",
    [
        ("kfold", [0, 0, 1], "aab", None, "one subject only of class '0'"),
        ("kfold", [0, 0, 1, 1], "abcc", None, "one subject only of class '1'"),
        ("subject", [0, 0, 1], "abc", None, "nobody of class '1' is left"),
        ("subject", [0, 1, 1], "aaa", None, "All samples are of one subject"),
        ("site", [0, 0, 1, 1], "abcd", "xxyy", "Without site x nobody of class '0'"),
        ("site", [0, 0, 1, 1], "abcd", "xxxx", "of one site"),
    ],
)
def test_what_cannot_be_dealt_is_refused(scheme, labels, groups, sites, message):
    sites = None if sites is None else np.array(list(sites))
    with pytest.raises(InputError, match=message):
        make_folds(scheme, np.array(labels), np.array(list(groups)), sites)


def test_one_person_is_one_group_and_equal_frames_of_two_are_refused(tmp_path):
    def groups(runs):
        for key, run in runs.items():
            run |= {
                "dataset": "toy",
                "frames_TxNxP": make_run(run.pop("same", key), geometry)["frames_TxNxP"],
            }
        sources = parse_sources(str(write_small_store(tmp_path / str(len(runs)), runs).path))
        return person_groups(sources, whole_runs(sources, 2), "").tolist()

    geometry = small_geometry()
    runs = {"a": {"subject": "01"}, "b": {"subject": "sub-1"}, "c": {"subject": "2"}}
    assert groups(runs) == ["toy/01", "toy/01", "toy/2"]
    with pytest.raises(InputError, match="Runs a and b of two people have equal frames"):
        groups({"a": {"subject": "1"}, "b": {"subject": "2", "same": "a"}})
