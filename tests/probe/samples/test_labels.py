"""The language of targets: which events and runs get which label, and bins of numbers."""

import json

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.probe.samples.labels import Binning, parse_target


def test_values_themselves_and_classes_of_a_file(tmp_path):
    target = parse_target("event:cond_id")
    assert (target.label({"cond_id": 7}), target.label({"cond": 7})) == ("7", None)
    for values in (
        {"3": "bus", "5": "train"},
        {"about": "x", "labels": {"3": "bus", "5": "train"}},
    ):
        (tmp_path / "map.json").write_text(json.dumps(values))
        target = parse_target(f"event:category_id;{tmp_path / 'map.json'}")
        assert [target.label({"category_id": i}) for i in (3, "5", 4, None)] == [
            "bus", "train", None, None
        ]  # fmt: skip
    # A published split by its name.
    assert parse_target("event:trial_type;task21").label({"trial_type": "2bk_tools"}) == "2bk_tools"
    assert parse_target("event:trial_type;task21").label({"trial_type": "cue"}) is None
    assert parse_target("event:category_id;nsd_cococlip").label({"category_id": 74}) == "clock"


def test_rows_of_an_array(tmp_path):
    np.save(tmp_path / "clusters.npy", np.array([4, 40, 0]))
    target = parse_target(f"array:{tmp_path / 'clusters.npy'}:nsd_id")
    assert [target.label({"nsd_id": i}) for i in (1, 2, 3, -1)] == ["40", "0", None, None]
    assert target.label({"nsd_id": "2.0"}) == "0"
    np.save(tmp_path / "clusters.npy", np.ones((2, 2), int))
    with pytest.raises(InputError, match="no list of integers"):
        parse_target(f"array:{tmp_path / 'clusters.npy'}:nsd_id")
    with pytest.raises(InputError, match="does not exist"):
        parse_target("array:none.npy:nsd_id")


def test_classes_stand_as_their_file_has_them_and_numbers_by_value(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"1": "rest", "2": "faces", "3": "rest"}))
    target = parse_target(f"event:kind;{tmp_path / 'map.json'}")
    assert target.order(["faces", "rest", "faces"]) == ["rest", "faces"]
    assert target.order(["faces"]) == ["faces"]
    assert parse_target("event:kind").order(["b", "10", "a"]) == ["10", "a", "b"]
    assert parse_target("event:kind").order(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert parse_target("event:trial_type;task21").order(["lf", "fear", "2bk_tools"]) == [
        "fear", "lf", "2bk_tools"
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["[1]", "no", "{}", '{"labels": 3}', '{"a": {"b": 1}}'])
def test_a_file_without_classes_is_refused(tmp_path, content):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(InputError, match="map.json"):
        parse_target(f"event:a;{tmp_path / 'map.json'}")


def test_runs_and_tables_by_whoever_they_are(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"M": "male", "F": "female"}))
    target = parse_target(f"run:sex;{tmp_path / 'map.json'}")
    assert [target.label({"sex": sex}) for sex in ("F", "M", "", None, "?")] == [
        "female", "male", None, None, None
    ]  # fmt: skip
    target = parse_target("run:sex")
    assert [target.label({"sex": sex}) for sex in ("F", "n/a", "NaN", "none")] == [
        "F", None, None, "none"
    ]  # fmt: skip
    (tmp_path / "a.csv").write_text("subject,age\nsub-01,30\n02,\n03,n/a\n01,30\n02,41.5\n")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    bids = parse_target(f"table:{tmp_path / 'participants.tsv'}:age")
    assert bids.label({"subject": "01", "session": None}) == "30"
    target = parse_target(f"table:{tmp_path / 'a.csv'}:age")
    people = [{"subject": s, "session": "1"} for s in ("01", "sub-01", "02", "03", "04")]
    assert [target.label(run) for run in people] == ["30", "30", "41.5", None, None]
    assert target.numbers(people[2]).tolist() == [41.5] and target.numbers(people[3]) is None
    (tmp_path / "b.tsv").write_text("subject\tsession\tmood\n01\tses-1\tlow\n01\t2\thigh\n")
    target = parse_target(f"table:{tmp_path / 'b.tsv'}:mood")
    found = [target.label({"subject": "sub-01", "session": s}) for s in ("1", "ses-2", "3")]
    assert found == ["low", "high", None]


@pytest.mark.parametrize(
    "content, message",
    [
        ("subject,age\n01,30\n01,31\n", "Lines 2 and 3 of .* disagree in 'age'"),
        ("subject,height\n01,30\n", "no column 'age'"),
        ("person,age\n01,30\n", "no column 'subject'"),
        ("", "no rows"),
        ("subject,age\n01\n", "Line 2 of .* has 1 columns and its header 2"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        parse_target(f"table:{tmp_path / 'a.csv'}:age")


def test_rows_of_floats_are_numbers_and_nan_is_none(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2], [np.nan, 0], [3, 4]], "f8"))
    target = parse_target(f"array:{tmp_path / 'a.npy'}:nsd_id")
    assert target.numbers({"nsd_id": 2}).tolist() == [3, 4]
    assert target.numbers({"nsd_id": 2}).dtype == np.float32
    assert [target.numbers({"nsd_id": i}) for i in (1, 3, -1, None, True)] == [None] * 5
    np.save(tmp_path / "a.npy", np.array(["x"]))
    with pytest.raises(InputError, match="a.npy"):
        parse_target(f"array:{tmp_path / 'a.npy'}:nsd_id")


def test_what_is_no_target_is_refused():
    for text in ("age", "event:", "table:a.csv", "time:machine", "table:a.txt:age"):
        with pytest.raises(InputError, match="none that a probe can read"):
            parse_target(text)


def test_bins_by_edges():
    bins = Binning(edges=(30, 45.5)).fit(np.zeros((1, 1), "f4"))
    labels = np.array([[29.9], [30], [45.4], [45.5], [99]], "f4")
    assert bins.cut(labels).tolist() == ["<30", "30 to 45.5", "30 to 45.5", ">=45.5", ">=45.5"]
    assert bins.order([">=45.5", "<30"]) == ["<30", ">=45.5"]
    assert Binning(edges=(0.1,)).cut(np.array([[0.1]], "f4")).tolist() == [">=0.1"]
    with pytest.raises(InputError, match="single numbers"):
        bins.cut(np.zeros((3, 2), "f4"))
    for settings in ({"edges": (3, 2)}, {"edges": (2, 2)}, {"edges": (1, np.nan)}):
        with pytest.raises(InputError, match="do not ascend"):
            Binning(**settings)
    for settings in ({}, {"quantiles": 1}, {"quantiles": -2}, {"edges": (1,), "quantiles": 2}):
        with pytest.raises(InputError, match="edges, or a number of quantiles"):
            Binning(**settings)


def test_quantiles_are_those_of_the_training_labels():
    train = np.random.default_rng(0).normal(50, 10, (300, 1)).astype("f4")
    bins = Binning(quantiles=3).fit(train)
    assert np.unique(bins.cut(train), return_counts=True)[1].tolist() == [100] * 3
    assert bins.cut(train + 100).tolist() == [bins.names[-1]] * 300  # of train, whatever is cut
    for labels in ([[1]] * 9 + [[2]], [[0], [10]]):
        with pytest.raises(InputError, match="too few values"):
            Binning(quantiles=4).fit(np.array(labels, "f4"))
