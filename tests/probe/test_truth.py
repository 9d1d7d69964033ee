"""The probe says what is true: no more than there is, more where there is more, and never of people
that it knows already."""

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.probe.suite import probe
from tests.conftest import toy_geometry
from tests.probe.test_suite import probe_config, write_model, write_task_store
from tests.probe.test_units import GRID, by_name, on_one_device, value, write_runs

GROUPS = {"train": range(8), "val": range(8, 12), "test": range(12, 22)}
# Sessions of the same people; the last is of another kind than those that are learned from.
VISITS = {"train": "task=REST&session=[12]", "val": "task=REST&session=3", "test": "task=WM"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        on_one_device(patch)
        yield write_model(tmp_path_factory.mktemp("model") / "model")


def task_splits(root, effect):
    return {
        name: write_task_store(root / f"{name}-{effect}", people, effect)
        for name, people in GROUPS.items()
    }


def test_where_nothing_is_no_head_finds_anything(model, tmp_path):
    heads = ("logistic", "knn", "linear", "attn", "mlp")
    config = probe_config(
        model, task_splits(tmp_path, 0.0), representations=("patch",), heads=heads, **GRID
    )
    rows = by_name(probe(config, tmp_path / "probe"))
    assert list(rows) == [("patch", head) for head in heads]
    for key, row in rows.items():
        found = row["splits"]["test"]
        score = found["metrics"]["balanced_accuracy"]
        assert score["subject_low"] <= 0.5 <= score["subject_high"], key
        # Its interval of ten subjects is too narrow to hold of five heads at once.
        assert value(row, "auroc") == pytest.approx(0.5, abs=0.15), key
        assert found["chance"]["kind"] == "within" and found["chance"]["p"] > 0.01, key


def test_accuracy_rises_with_the_effect(model, tmp_path):
    values, p = [], []
    for effect in (0.02, 0.1, 0.5):
        config = probe_config(
            model, task_splits(tmp_path, effect), representations=("patch",), baselines=()
        )
        (row,) = probe(config, tmp_path / "probe")["results"]
        values.append([value(row, metric) for metric in ("balanced_accuracy", "auroc")])
        p.append(row["splits"]["test"]["chance"]["p"])
    assert (np.diff(values, axis=0) > 0.02).all()
    assert values[0][0] < 0.75 and values[-1][0] > 0.95 and p[-1] == pytest.approx(1 / 1001)


def write_visits(path, people, strength, seed=0):
    """Sessions of people who differ by a pattern, and a coin of each that says nothing."""
    geometry, rng = toy_geometry(), np.random.default_rng(seed)
    mask, runs = geometry.mask, []
    task = np.sin(np.arange(36))[:, None, None]  # what only the other kind of run has
    for i in people:
        pattern = strength * np.kron(rng.normal(size=(4, 8)), np.ones((8, 8)))
        who = {"subject": f"{i:02d}", "coin": ("heads", "tails")[i % 2]}
        for session, kind in zip("1234", ("REST", "REST", "REST", "WM"), strict=True):
            fields = who | {"session": session, "task": kind}
            signal = np.broadcast_to(pattern, mask.shape) + (kind == "WM") * task
            runs.append((f"sub-{i:02d}_ses-{session}", fields, signal))
    return write_runs(path, runs, seed=seed + 1)


def visits(store):
    return {name: f"{store}?{query}" for name, query in VISITS.items()}


@pytest.mark.parametrize(
    "strength, keys, low, high", [(0.5, ("session",), 0.9, 1.0), (0.0, (), 0.0, 0.35)]
)
def test_people_are_recognised_in_another_kind_of_run(model, tmp_path, strength, keys, low, high):
    store = write_visits(tmp_path / "visits", range(8), strength)
    config = probe_config(
        model, visits(store), target="run:subject", leak_keys=keys, unit="clip",
        representations=("patch",), baselines=("majority",),
    )  # fmt: skip
    results = probe(config, tmp_path / "probe")
    rows = by_name(results)
    assert len(results["classes"]) == 8
    assert low <= value(rows["patch", "logistic"], "accuracy") <= high
    assert value(rows["none", "majority"], "accuracy") == pytest.approx(1 / 8)
    told = {
        o["field"]: o["shared"] for o in results["overlap"] if (o["a"], o["b"]) == ("train", "test")
    }
    assert told == {"subject": 8, "session": 0}


def test_people_in_two_splits_are_refused_for_they_give_away_what_nobody_can_know(model, tmp_path):
    store = write_visits(tmp_path / "visits", range(8), 0.5)
    others = write_visits(tmp_path / "others", range(8, 20), 0.5, seed=7)
    known = visits(store)
    with pytest.raises(InputError, match="train and val share 8 values of 'subject'"):
        probe(probe_config(model, known, target="run:coin"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    test = f"known={known['test']},unknown={others}?task=WM"
    config = probe_config(
        model, known | {"test": test}, target="run:coin", leak_keys=(), unit="run",
        representations=("patch",), baselines=(),
    )  # fmt: skip
    results = probe(config, tmp_path / "probe")
    (row,) = results["results"]
    assert value(row, "accuracy", "known") == 1.0
    score = row["splits"]["unknown"]["metrics"]["balanced_accuracy"]
    assert score["low"] <= 0.5 <= score["high"]
    assert row["splits"]["unknown"]["chance"]["p"] > 0.01
    told = {(o["a"], o["b"], o["field"]): o["shared"] for o in results["overlap"]}
    assert told["train", "known", "subject"] == 8 and told["train", "unknown", "subject"] == 0
