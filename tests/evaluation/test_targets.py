"""The language of targets: which events get which class."""

import json

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.evaluation.targets import parse_target


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
    np.save(tmp_path / "clusters.npy", np.ones((2, 2)))
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
