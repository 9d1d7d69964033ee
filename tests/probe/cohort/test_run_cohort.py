"""Whole cohorts: what is there is found, what is not is not, and what confounds say is flagged."""

import json
import re

import numpy as np
import pytest

from configs.cohort import get_config
from data_tools.errors import InputError
from data_tools.store.writer import StoreWriter
from fmrifm.probe.cohort.run_cohort import run_cohort
from fmrifm.probe.results import results as study_results
from fmrifm.probe.results.compare import compare
from fmrifm.probe.results.results import describe_results
from fmrifm.runs.config import flatten
from fmrifm.runs.provenance import read_starts
from tests.conftest import fields_read, toy_geometry
from tests.probe.test_suite import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model")


def write_cohort(path, kind, subjects=24, visits=1, seed=0, **settings):
    """Patients' left hemisphere goes along with the right by "effect", else motion or site does."""
    geometry, rng = toy_geometry(), np.random.default_rng(seed)
    left = np.zeros(geometry.mask.shape)
    left[:, :32] = 1
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}, **settings) as writer:
        for s in range(subjects):
            patient, age = s % 2 == 1, int(rng.integers(20, 80))
            moves = rng.normal() + 2.5 * (patient and kind == "motion")
            site = patient if kind == "site" and s % 8 else bool(rng.integers(2))
            for visit in range(visits):
                series = rng.normal(size=(64, *geometry.mask.shape))
                shared = rng.normal(size=(64, 1, 1))
                strength = {"effect": patient, "motion": moves / 3, "site": site, "age": age / 50}
                series += strength.get(kind, 0) * shared * (2 * left - 1) * 2
                frames = geometry.to_patches((series * geometry.mask).astype(np.float16))
                writer.add(
                    f"sub-{s:02d}_ses-{visit}", frames, dataset="toy", subject=f"{s:02d}",
                    session=str(visit), site="ab"[site], age=age, sex="FM"[s // 2 % 2],
                    diagnosis="patient" if patient else "control",
                    qc={"fd_mean": 0.2 + 0.03 * moves, "temporal_snr": 80 + rng.normal()},
                )  # fmt: skip
        writer.finish()
    return str(path)


def cohort_config(model, store, arg="", **changes):
    config = get_config(arg)
    config.model, config.data.path = str(model), store
    few = {"permutations": 20, "n_seeds": 2, "curve": (0.5,), "pictures": 1}
    few |= {"splits__repeats": 2, "splits__folds": 3, "splits__inner": 2}
    changes = few | changes
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@pytest.mark.parametrize(
    "kind, verdict",
    [("effect", "found"), ("none", "chance"), ("site", "confounded"), ("motion", "confounded")],
)
def test_the_report_says_what_is_there(model, tmp_path, kind, verdict):
    store = write_cohort(tmp_path / "store", kind)
    config = cohort_config(model, store, representations=("patch_connectome",))
    results = run_cohort(config, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert results["answer"]["verdict"] == verdict, results["answer"]
    assert ("within a single site the model" in results["answer"]["text"]) == (kind == "site")
    kinds = [warning["kind"] for warning in results["warnings"]]
    assert ("confounds" in kinds) == (verdict == "confounded") and "size" in kinds
    named = {c["name"]: c["p"] for c in results["confounds"]}
    assert (named["fd_mean"] < 0.01) == (kind == "motion")
    assert (named["site"] < 0.01) == (kind == "site")
    page = (tmp_path / "out" / "report.html").read_text()
    assert results["answer"]["text"] in page and "http" not in page
    for words in ("Who was in", "Who was left out", "confounds alone", "One by one", "ses-0"):
        assert words in page
    assert page.count("data:image/png;base64,") == 3  # scores, curve, a brain
    for row in results["results"]:
        split = row["splits"]["kfold"]
        assert (split["n"], split["n_subjects"]) == (24, 24) and split["chance"]["uniform"] == 0.5
        assert split["chance"]["majority"] == 0.5
        if row["head"] == "logistic":
            assert split["chance"]["permutations"] == 20 and split["seeds"]["seed_std"] is not None
            assert [round(x["n_subjects"]) for x in split["curve"]] == [8, 16]
            assert set(split["sites"]) == {"a", "b"} and "rho" in split["motion"]
    with np.load(tmp_path / "out" / "predictions_patch_connectome_logistic.npz") as file:
        assert file["score"].shape == (24, 2) and file["scores"].shape == (24, 2, 2, 2)
    table = describe_results(results)
    assert "kfold" in table and table.endswith(results["answer"]["text"])
    if kind == "effect":
        compare([tmp_path / "out"], tmp_path / "table")
        assert "patch_connectome" in (tmp_path / "table" / "table.md").read_text()


def test_visits_stay_together_and_every_field_is_read(model, tmp_path, monkeypatch):
    store = write_cohort(tmp_path / "store", "effect", 12, visits=2)
    table = tmp_path / "later.csv"
    rows = [f"{s:02d},{'patient' if s % 2 else 'control'},{s}" for s in range(10)]
    table.write_text("\n".join(["subject,dx,family", *rows]))
    config = cohort_config(
        model, store, unit="session", target=f"table:{table}:dx", random_splits=2,
        baselines=("confounds", "connectome", "pca", "input", "untrained", "majority"),
        confounds__remove="regress", confounds__fields=("age",), splits__inner=2,
        representations=("patch_connectome", "cls"), permutations=0, data__windows=3,
        splits__scheme="subject", cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    dump, dumping = study_results.config_dict, []

    def dump_unseen(config):  # what is only written down is not read
        dumping.append(True)
        try:
            return dump(config)
        finally:
            dumping.clear()

    monkeypatch.setattr(study_results, "config_dict", dump_unseen)
    monkeypatch.setattr("fmrifm.probe.check_config.check_numbers", lambda *_: None)
    with fields_read(config, unless=dumping) as read:
        results = run_cohort(config, tmp_path / "out")
    assert set(flatten(config.to_dict())) - read == {"splits.repeats"}  # of kfold only
    (start,) = read_starts(tmp_path / "out")
    assert list(start["stores"]) == [store] and start["config"]["unit"] == "session"
    assert results["splits"]["n_groups"] == results["splits"]["n_folds"] == 10
    left = {x["who"]: x["why"] for x in results["who_was_left_out"]}
    assert set(left) == {"toy/10", "toy/11"} and "no value" in left["toy/10"]
    names = [row["representation"] for row in results["results"]]
    assert names == [
        "patch_connectome", "cls", "confounds", "connectome_patches", "pca", "input",
        "untrained_patch_connectome", "untrained_cls", "none",
    ]  # fmt: skip
    for row in results["results"]:
        split = row["splits"]["subject"]
        assert (split["n"], split["n_subjects"]) == (20, 10)
        assert split["metrics"]["balanced_accuracy"]["interval"] == "subjects"
    assert results["answer"]["verdict"] == "found"
    # Other labels: the features that are there serve again.
    config.target, config.baselines = "run:diagnosis", ("confounds",)
    made = {path.name for path in (tmp_path / "cache").iterdir()}
    assert run_cohort(config, tmp_path / "other")["splits"]["n_groups"] == 12
    assert {path.name for path in (tmp_path / "cache").iterdir()} == made


def test_numbers(model, tmp_path):
    store = write_cohort(tmp_path / "store", "age", 30)
    config = cohort_config(
        model, store, "regression", target="run:age", representations=("patch_connectome",)
    )
    results = run_cohort(config, tmp_path / "out")
    some = results["results"][0]["splits"]["kfold"]["metrics"]
    assert list(some)[0] == "r2" and some["r2"]["value"] > 0.3 and some["pearson"]["value"] > 0.5
    assert results["answer"]["verdict"] == "found" and "age" not in [
        c["name"] for c in results["confounds"]
    ]
    assert "r2" in describe_results(results)


def test_a_site_left_out_and_what_must_not_be_shown(model, tmp_path):
    store = write_cohort(tmp_path / "store", "effect", restricted=("site", "diagnosis"))
    config = cohort_config(
        model, store, splits__scheme="site", representations=("patch_connectome",)
    )
    results = run_cohort(config, tmp_path / "out")
    assert results["splits"]["n_folds"] == 2 and results["people"] == []
    assert "sites" not in results["results"][0]["splits"]["site"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "One by one" not in page and not re.search("<td>site</td>", page)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"permutations": 5}, "permutations must be 20 or more"),
        ({"representations": ("x",)}, "representations has no 'x'"),
        ({"splits__scheme": "rows"}, "splits.scheme has no 'rows'"),
        ({"splits__folds": 1}, "splits.folds=1 must be 2 or more"),
        ({"curve": (2.0,)}, r"curve=2.0 must lie in \(0, 1\)"),
        ({"confounds__remove": "combat", "splits__scheme": "site"}, "ComBat cannot learn"),
        ({"confounds__site": "scanner", "splits__scheme": "site"}, "No run has a 'scanner'"),
        ({"data__path": ""}, "A cohort needs a store"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tmp_path, changes, message):
    store = write_cohort(tmp_path / "store", "none", 8)
    with pytest.raises(InputError, match=message):
        run_cohort(cohort_config(model, store, **changes), tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
