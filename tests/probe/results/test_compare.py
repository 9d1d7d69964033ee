"""Many probes side by side: everything is there once, the best first, pairs on the same samples."""

import csv
import json

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.probe.results.compare import compare, paired
from fmrifm.probe.results.compare_figures import draw_intervals, draw_steps
from fmrifm.probe.results.compare_rows import find_probes, read_rows
from fmrifm.probe.results.results import describe_results
from fmrifm.probe.scores.bootstrap import score

CLASSES = ["a", "b", "c", "d"]


def metrics(value, *names):
    names = names or ("accuracy", "f1_macro")
    return {
        name: {"value": value, "std": 0.02, "low": value - 0.05, "high": value + 0.05}
        for name in names
    }


def result(representation, value, head="logistic", splits=("test",), **fields):
    found = {"n": 40, "n_subjects": 4, "seen_in_pretraining": 0, "metrics": metrics(value)}
    about = {"dataset": "toy", "representation": representation, "head": head, "baseline": False}
    splits = {name: found for name in splits}
    return {**about, "hparams": {}, "diverged": 0, "splits": splits, **fields}


def baseline(representation, value, **fields):
    return result(representation, value, baseline=True, **fields)


def write_probe(path, *rows, **fields):
    path.mkdir(parents=True)
    about = {"version": 1, "model": f"/models/{path.name}", "target": "event:kind", "unit": "clip"}
    results = {**about, "classes": CLASSES, "results": list(rows), **fields}
    (path / "results.json").write_text(json.dumps(results))
    return path


def body(text, heading):
    """The cells of the table below a heading."""
    part = text.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_models_are_ranked_beside_baselines_that_stand_once(tmp_path):
    shared = baseline("connectome", 0.9)
    write_probe(tmp_path / "p" / "small", result("cls", 0.5), shared, baseline("untrained", 0.31))
    write_probe(tmp_path / "p" / "big", result("cls", 0.7), shared, baseline("untrained", 0.32))
    text = compare([tmp_path / "p"], tmp_path / "out")
    assert (tmp_path / "out" / "table.md").read_text() == text
    assert body(text, "event:kind, toy test") == [
        ["big", "cls", "logistic", *["0.700 [0.650, 0.750]"] * 2],
        ["small", "cls", "logistic", *["0.500 [0.450, 0.550]"] * 2],
        ["all", "connectome", "logistic", *["**0.900** [0.850, 0.950]"] * 2],
        ["big", "untrained", "logistic", *["0.320 [0.270, 0.370]"] * 2],
        ["small", "untrained", "logistic", *["0.310 [0.260, 0.360]"] * 2],
    ]
    assert "unit clip, n = 40; 4 classes, a random guess hits 25.0%" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.csv", "table.md", "table.png",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert len(rows) == 12  # nothing is merged here
    assert rows[0] == {
        "run": "big", "model": "/models/big", "target": "event:kind", "unit": "clip",
        "dataset": "toy", "representation": "cls", "head": "logistic", "baseline": "False",
        "split": "test", "n": "40", "metric": "accuracy", "value": "0.7", "std": "0.02",
        "low": "0.6499999999999999", "high": "0.75",
        "subject_std": "", "subject_low": "", "subject_high": "",
    }  # fmt: skip
    assert text.startswith("In brackets: 95 % intervals over samples.\n")


def with_subjects(value, **figures):
    """Scores of which the first has an interval over subjects."""
    figures = {"subject_std": 0.1, "subject_low": 0.2, "subject_high": 0.8} | figures
    found = metrics(value)
    found["accuracy"] |= figures
    return result("cls", value) | {"splits": {"test": {"n": 40, "metrics": found}}}


def test_intervals_are_over_subjects_where_they_are_told(tmp_path):
    probe = write_probe(tmp_path / "probe", with_subjects(0.5))
    text = compare([probe], tmp_path / "out")
    (cells,) = body(text, "event:kind, toy test")
    assert cells[-2:] == ["**0.500** [0.200, 0.800]", "**0.500** [0.450, 0.550]"]
    assert text.count("95 % intervals over subjects where results have them") == 1
    first, second = csv.DictReader((tmp_path / "out" / "table.csv").open())
    names = [f"subject_{x}" for x in ("std", "low", "high")]
    assert list(first)[-3:] == names
    assert [first[x] for x in names] == ["0.1", "0.2", "0.8"]
    assert [second[x] for x in names] == ["", "", ""]
    assert (first["low"], first["high"]) == ("0.45", "0.55")  # those over samples stay


def test_tables_of_few_subjects_show_one_interval_or_none(tmp_path):
    """The table of a probe, that of several, and results.csv."""
    subjects, labels = np.repeat(list("pqr"), 8), np.tile(["a", "b"], 12)
    wrong = np.isin(np.arange(24), (0, 8, 9, 10))
    for i, guesses in enumerate((np.where(wrong, "c", labels), labels)):
        found = score(labels, guesses, None, np.array(list("abc")), subjects=subjects)
        split = {"n": 24, "n_subjects": 3, "seen_in_pretraining": None, "metrics": found,
                 "chance": {"p": 0.01}}  # fmt: skip
        row = result("cls", 0.5) | {"splits": {"test": split}, "hparams": {}, "diverged": 0}
        probe = write_probe(tmp_path / f"probe{i}", row)
        results = json.loads((probe / "results.json").read_text())
        text = describe_results({"left_out": {}, "overlap": [], **results})
        cell = body(compare([probe], tmp_path / "out"), "event:kind, toy test")[0][3]
        low, high = (found["accuracy"][end] for end in ("low", "high"))
        if i:
            assert (low, high) == (None, None)
            assert cell == "**1.000**" and "100.0% (n = 24 of 3 subjects" in text
        else:
            assert low < 0.6 and high == 1  # t with two degrees of freedom
            assert cell == f"**0.833** [{low:.3f}, {high:.3f}]"
            assert f"83.3% ({low:.1%} to {high:.1%}, n = 24" in text


def test_pictures_show_the_intervals_over_subjects(tmp_path):
    """Where these agree, what is over samples changes nothing."""
    drawn = []
    for i, changes in enumerate(({}, {"low": 0.1, "high": 0.9}, {"subject_high": 0.7})):
        rows = [
            read_rows(write_probe(tmp_path / str(i) / f"{step}", with_subjects(0.5, **changes),
                                  model=f"/runs/vit/checkpoints/{step}", step=step))[0]
            for step in (1, 2)
        ]  # fmt: skip
        drawn.append((draw_intervals([rows]), draw_steps([[rows]])))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]


def test_what_cannot_be_compared_stands_apart(tmp_path):
    age = {"n": 9, "n_subjects": 9, "metrics": metrics(0.2, "r2")}
    age["metrics"]["pearson"] = {"value": float("nan"), "std": None, "low": None, "high": None}
    write_probe(tmp_path / "kind", result("cls", 0.5, splits=("near", "far")))
    row = result("cls", 0, head="ridge") | {"splits": {"far": age}}
    write_probe(tmp_path / "age", row, target="run:age", classes=[], unit="run")
    more = result("cls", 0.6) | {"splits": {"far": {"n": 44, "metrics": metrics(0.6)}}}
    write_probe(tmp_path / "more", more)
    places = [tmp_path / name for name in ("kind", "age", "more")]
    text = compare(places, tmp_path / "out")
    assert len(body(text, "event:kind, toy near")) == 1
    assert [line[0] for line in body(text, "event:kind, toy far")] == ["more", "kind"]
    assert "n = 40 to 44: the samples are not the same" in text
    assert body(text, "run:age, toy far") == [
        ["age", "cls", "ridge", "**0.200** [0.150, 0.250]", "-"]
    ]
    assert "Paired" not in text


def test_probes_are_found_once_and_in_the_order_of_their_numbers(tmp_path):
    for step in (2, 10, 1):
        write_probe(tmp_path / "every" / f"step-{step}", result("cls", 0.5))
    (tmp_path / "every" / "notes").mkdir()
    one, every = tmp_path / "every" / "step-10", tmp_path / "every"
    names = ["step-1", "step-2", "step-10"]
    assert [path.name for path in find_probes([every])] == names
    assert [path.name for path in find_probes([f"{every}/step-*"])] == names
    assert [path.name for path in find_probes([one / "results.json", every])] == [
        "step-10", "step-1", "step-2",
    ]  # fmt: skip


def test_steps_of_one_run_become_curves(tmp_path):
    for step in (1000, 2000, 10000):
        rows = (result("cls", 0.5 + step / 1e5), baseline("untrained", 0.4))
        model = f"/runs/vit/checkpoints/{step}"
        write_probe(tmp_path / "p" / f"step-{step:08d}", *rows, model=model, step=step)
    other = write_probe(tmp_path / "other", baseline("untrained", 0.3), model="/runs/mlp")
    text = compare([tmp_path / "p", other], tmp_path / "out")
    names = [line[0] for line in body(text, "event:kind, toy test")]
    assert names == ["vit step 10,000", "vit step 2,000", "vit step 1,000", "vit", "mlp"]
    assert (tmp_path / "out" / "steps.png").read_bytes()[1:4] == b"PNG"
    compare([tmp_path / "p" / "step-00001000"], tmp_path / "out")  # one step is no curve
    assert not (tmp_path / "out" / "steps.png").exists()


def test_two_probes_of_one_model_are_told_apart(tmp_path):
    for name, value in (("one", 0.5), ("two", 0.6)):
        write_probe(tmp_path / name / "probe", result("cls", value), model="me/vit")
    text = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    names = [line[0] for line in body(text, "event:kind, toy test")]
    assert names == ["vit (two/probe)", "vit (one/probe)"]


def test_two_series_of_one_run_are_told_apart(tmp_path):
    """Probes of one step with other seeds, say; beside them every step."""
    for name, value in (("some/a", 0.5), ("some/b", 0.6)):
        model = "/runs/vit/checkpoints/8"
        write_probe(tmp_path / name, result("cls", value), model=model, step=8)
    for step in (4, 8):
        place, model = f"every/step-{step:08d}", f"/runs/vit/checkpoints/{step}"
        write_probe(tmp_path / place, result("cls", 0.4), model=model, step=step)
    text = compare([tmp_path / "some", tmp_path / "every"], tmp_path / "out")
    assert [line[0] for line in body(text, "event:kind, toy test")] == [
        "vit (some/b) step 8", "vit (some/a) step 8", "vit (every) step 4", "vit (every) step 8",
    ]  # fmt: skip


def write_predictions(probe, hits, order=slice(None), **fields):
    """40 samples of 4 subjects, of which the first `hits` are right."""
    target = np.array(CLASSES * 10)
    prediction = np.where(np.arange(40) < hits, target, np.roll(target, 1))
    data = {
        "key": np.repeat([f"sub-{i}" for i in range(4)], 10), "start": np.tile(np.arange(10), 4),
        "split": np.full(40, "test"), "target": target, "prediction": prediction,
    } | fields  # fmt: skip
    np.savez(probe / "predictions_cls_logistic.npz", **{k: x[order] for k, x in data.items()})


def test_pairs_are_compared_on_the_same_samples_against_the_first(tmp_path):
    old = write_probe(tmp_path / "old", result("cls", 0.5), result("patch", 0.5))
    new = write_probe(tmp_path / "new", result("cls", 0.9), result("patch", 0.5))
    write_predictions(old, 20)
    shuffled = np.random.default_rng(0).permutation(40)
    write_predictions(new, 36, shuffled)
    text = compare([old, new], tmp_path / "out")
    ((model, minus, *what, n, difference, p),) = body(text, "Paired differences")
    assert (model, minus, n) == ("new", "old", "40") and float(p) < 0.01
    assert what == ["cls", "logistic", "test", "accuracy"]
    assert difference.startswith("+0.400 [+0.2")
    (found,) = paired(new, old)
    assert found["difference"] == pytest.approx(-0.4) and -0.6 < found["low"] < found["high"] < 0
    write_predictions(new, 36, start=np.arange(40))  # of other clips
    assert paired(old, new) == []
    (new / "predictions_cls_logistic.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"new/predictions_cls_logistic.npz is damaged .* again"):
        paired(old, new)


def test_subjects_are_resampled_whole_where_they_are_known(tmp_path):
    """Only one of four subjects got better, so that nobody can be sure."""
    old, new = (write_probe(tmp_path / x, result("cls", 0.5)) for x in ("old", "new"))
    write_predictions(old, 0)
    write_predictions(new, 10)
    assert paired(old, new)[0]["low"] > 0
    subject = np.repeat([f"toy/{i}" for i in range(4)], 10)
    for probe, hits in ((old, 0), (new, 10)):
        write_predictions(probe, hits, subject=subject)
    assert paired(old, new)[0]["low"] < 0


def test_bad_input_is_told_in_a_sentence_and_nothing_is_written(tmp_path):
    good = write_probe(tmp_path / "good", result("cls", 0.5))
    later = write_probe(tmp_path / "later", version=2)
    damaged = write_probe(tmp_path / "damaged", {"dataset": "toy"})
    cut = write_probe(tmp_path / "cut", result("cls", 0.5))
    (cut / "results.json").write_text((cut / "results.json").read_text()[:100])
    (tmp_path / "empty").mkdir()
    for path, told in (
        (tmp_path / "empty", "empty holds no results.json: give directories"),
        (tmp_path / "no*", "no\\* holds no results.json"),
        (later, "later/results.json is of version 2, this program reads 1"),
        (damaged, "damaged/results.json is damaged"),
        (cut, "cut/results.json is damaged .* run the probe again"),
    ):
        with pytest.raises(InputError, match=told):
            compare([good, path], tmp_path / "out")
    with pytest.raises(InputError, match="Nothing is to be compared"):
        compare([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
