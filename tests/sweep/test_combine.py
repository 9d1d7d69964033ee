"""Points of a sweep and their names."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.sweep.combine import chain, log_uniform, name_of, product, sample, values, zipped


def test_combinators():
    lr, seed = values("optim.lr", 1e-3, 1e-4), values("seed", 0, 1)
    assert product(lr, seed) == [
        {"optim.lr": 1e-3, "seed": 0},
        {"optim.lr": 1e-3, "seed": 1},
        {"optim.lr": 1e-4, "seed": 0},
        {"optim.lr": 1e-4, "seed": 1},
    ]
    assert zipped(lr, seed) == [{"optim.lr": 1e-3, "seed": 0}, {"optim.lr": 1e-4, "seed": 1}]
    assert chain(lr, [{"optim.lr": 1e-4}, {"seed": 7}]) == [*lr, {"seed": 7}]
    with pytest.raises(InputError, match="2, 1"):
        zipped(lr, [{"seed": 0}])
    with pytest.raises(InputError, match="optim.lr twice"):
        product(lr, lr)


def test_samples_are_log_uniform_and_stay_when_there_are_more():
    range_ = log_uniform(1e-4, 1e-2)
    points = sample(400, seed=3, **{"optim.lr": range_, "model.size": ["d3", "d6"]})
    rates = [point["optim.lr"] for point in points]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert 0.4 < sum(math.log10(rate) < -3 for rate in rates) / 400 < 0.6
    assert {point["model.size"] for point in points} == {"d3", "d6"}
    assert sample(5, seed=3, **{"optim.lr": range_}) == [{"optim.lr": rate} for rate in rates[:5]]
    assert sample(5, seed=4, **{"optim.lr": range_}) != [{"optim.lr": rate} for rate in rates[:5]]
    with pytest.raises(InputError, match="0 < low"):
        log_uniform(0, 1)


@pytest.mark.parametrize(
    "point, name",
    [
        ({"optim.lr": 3e-4, "seed": 1}, "lr-0.0003_seed-1"),
        ({"optim.lr": 1e-05}, "lr-1e-5"),
        ({"model.size": "d3", "optim.name": "muon"}, "size-d3_name-muon"),
        ({"mesh.data": 2, "data.num_frames": 8}, "data-2_num_frames-8"),
        ({"finetune.lr": 1e-4, "grid.lr": 1e-3}, "finetune.lr-0.0001_grid.lr-0.001"),
        ({"representations": ("cls", "patch")}, "representations-cls+patch"),
        ({"name": "small", "model.size": "d3"}, "small"),
    ],
)
def test_names_are_short_and_readable(point, name):
    assert name_of(point) == name


def test_a_named_part_keeps_its_name_beside_others():
    named = [{"name": "cross", "model.decoding": "cross"}]
    assert product(named, values("seed", 2))[0]["name"] == "cross_seed-2"
    assert product(values("seed", 2), named, values("optim.lr", 0.1))[0]["name"] == (
        "seed-2_cross_lr-0.1"
    )


def test_nested_fields_are_those_of_one_config():
    a, b = [{"optim": {"lr": 0.1}}], [{"name": "b", "optim": {"b2": 0.9}}]
    merged = {"optim.lr": 0.1, "name": "lr-0.1_b", "optim.b2": 0.9}
    assert product(a, b) == [merged]
    with pytest.raises(InputError, match="optim.lr twice"):
        product(a, values("optim.lr", 0.2))


value = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=60))


@given(value, value)
def test_names_tell_values_of_a_kind_apart_and_make_directories(a, b):
    names = [name_of({"x.field": value}) for value in (a, b)]
    assert all("/" not in name and len(name) < 40 for name in names)
    if type(a) is type(b) and a != b:
        assert names[0] != names[1]
