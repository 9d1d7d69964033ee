"""Finished runs as rows: scores of the right checkpoint, and no score that was chosen by."""

import json
import shutil

import pytest

from data_tools.errors import InputError
from fmrifm.input.data import open_data
from fmrifm.runs.finished import read_runs
from fmrifm.runs.provenance import measure, record_start
from tests.conftest import make_toy_config


def write_run(path, losses, keep_best=None, total_steps=None, **scores):
    """A run that was evaluated on "a" and "b": step -> both losses."""
    path.mkdir(parents=True)
    total = total_steps or max(losses)
    config = {"total_steps": total, "keep_best": keep_best, "optim": {"lr": 0.1}}
    (path / "config.json").write_text(json.dumps(config))
    lines = []
    for step, (a, b) in losses.items():
        lines.append({"step": step, "train/loss": a})
        lines.append({"step": step, "eval/a/loss": a, "eval/a/zero": 1.0, "eval/b/loss": b})
        lines[-1] |= {"probe/cls_logistic/test/accuracy": a / 10} | scores
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_probe(path, value, step):
    """A probe of the model of a step."""
    path.mkdir(parents=True)
    metrics = {"accuracy": {"value": value, "std": 0.1}}
    about = {"representation": "cls", "head": "ridge", "splits": {"test": {"metrics": metrics}}}
    rows = [{**about, "baseline": False}, {**about, "representation": "pca", "baseline": True}]
    config = {"target": "run:age", "data": {"test": "x"}}
    results = {"step": step, "config": config, "results": rows}
    (path / "results.json").write_text(json.dumps(results))


LOSSES = {10: (3.0, 5.0), 20: (1.0, 4.0), 30: (1.0, 6.0), 40: (2.0, 3.0)}


def test_last_and_best(tmp_path):
    write_run(tmp_path / "run", LOSSES, keep_best="a")
    (last,) = read_runs([str(tmp_path / "run")], "last")
    assert (last.step, last.checkpoint, last.losses()) == (40, "last", {"a": 2.0, "b": 3.0})
    assert last.scores["probe/cls_logistic/test/accuracy"] == 0.2
    assert last.config == {"total_steps": 40, "keep_best": "a", "optim.lr": 0.1}
    for checkpoint in ("best", "auto"):
        (best,) = read_runs([str(tmp_path / "run")], checkpoint)
        # The first of two equal ones is the checkpoint that was kept. What chose is not told.
        assert (best.step, best.checkpoint) == (20, "best on a")
        assert best.scores == {"eval/b/loss": 4.0, "probe/cls_logistic/test/accuracy": 0.1}
    write_run(tmp_path / "plain", LOSSES)
    assert read_runs([str(tmp_path / "plain")])[0].checkpoint == "last"
    with pytest.raises(InputError, match="plain has no keep_best"):
        read_runs([str(tmp_path / "plain")], "best")
    write_run(tmp_path / "odd", LOSSES, keep_best="never")
    with pytest.raises(InputError, match="odd has no keep_best"):
        read_runs([str(tmp_path / "odd")])


def test_a_probe_beside_a_run_counts_for_the_model_that_it_was_of(tmp_path):
    run = write_run(tmp_path / "run", LOSSES, keep_best="a")
    write_probe(run / "probes" / "age", 0.7, step=40)
    write_probe(run / "probes" / "early", 0.6, step=20)
    write_probe(run / "probes" / "other", 0.5, step=30)
    write_probe(run / "probes" / "step-00000040", 0.4, step=40)  # amid training: in its metrics
    own = "probe/cls_logistic/test/accuracy"

    def probes(checkpoint):
        (found,) = read_runs([str(run)], checkpoint)
        return {k: v for k, v in found.scores.items() if k.startswith("probe/") and k != own}

    assert probes("last") == {"probe/age/cls_ridge/test/accuracy": 0.7}
    assert probes("best") == {"probe/early/cls_ridge/test/accuracy": 0.6}
    (alone,) = read_runs([str(run / "probes" / "age")])
    assert alone.scores == {"cls_ridge/test/accuracy": 0.7} and alone.step is None
    assert alone.config == {"target": "run:age", "data.test": "x"}
    with pytest.raises(InputError, match="is a probe"):
        alone.sizes()


def test_a_run_without_evaluation_has_its_probes(tmp_path):
    run = write_run(tmp_path / "run", LOSSES)
    lines = [json.dumps({"step": step, "train/loss": 1.0}) + "\n" for step in (10, 40)]
    (run / "metrics.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match="never evaluated"):
        read_runs([str(run)])
    write_probe(run / "probes" / "age", 0.7, step=40)
    assert read_runs([str(run)])[0].scores == {"probe/age/cls_ridge/test/accuracy": 0.7}


def test_what_is_not_finished_or_damaged_is_refused(tmp_path):
    write_run(tmp_path / "sweep" / "good", LOSSES)
    write_run(tmp_path / "sweep" / "short", LOSSES, total_steps=50)
    with pytest.raises(InputError, match="short is at step 40 of 50"):
        read_runs([str(tmp_path / "sweep")])
    shutil.rmtree(tmp_path / "sweep" / "short")
    damages = {"config.json": None, "metrics.jsonl": "", "probes/x/results.json": "{"}
    for name, text in damages.items():
        run = write_run(tmp_path / "runs" / name.replace("/", "-"), LOSSES)
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text) if text is not None else (run / name).unlink()
        with pytest.raises(InputError, match=str(run)):
            read_runs([str(run)])
    # A line that a kill has cut off is not there.
    run = write_run(tmp_path / "runs" / "cut", LOSSES)
    with open(run / "metrics.jsonl", "r+") as file:
        file.truncate(len(file.read()) - 60)
    with pytest.raises(InputError, match="was never evaluated"):
        read_runs([str(run)])
    (tmp_path / "sweep" / "sweep.json").write_text('{"points": [{"name": "later"}]}')
    with pytest.raises(InputError, match="later has not begun"):
        read_runs([str(tmp_path / "sweep")])
    with pytest.raises(InputError, match="holds no run"):
        read_runs([str(tmp_path / "nothing*")])


def test_each_run_comes_once_under_the_shortest_clear_name(tmp_path, monkeypatch):
    for name in ("s/lr-1", "s/lr-2", "t/lr-1"):
        write_run(tmp_path / "sweeps" / name, LOSSES)
    points = [{"name": "lr-1"}, {"name": "lr-2"}]
    (tmp_path / "sweeps" / "s" / "sweep.json").write_text(json.dumps({"points": points}))
    write_run(tmp_path / "sweeps" / "s" / "lr-1_repeated", LOSSES)  # no point of the sweep
    monkeypatch.chdir(tmp_path)
    runs = read_runs(["sweeps/s", str(tmp_path / "sweeps" / "?"), "sweeps/s/lr-1"])
    assert [run.name for run in runs] == ["s/lr-1", "s/lr-2", "t/lr-1"]
    assert [run.name for run in read_runs(["sweeps/s"])] == ["lr-1", "lr-2"]
    assert [run.name for run in read_runs(["sweeps/s/lr-1/"])] == ["lr-1"]


def test_sizes_recorded_are_those_of_the_stores(stores, tmp_path):
    config = make_toy_config(stores)
    config.data.train = f"{stores['train']},{stores['train']}?subject=00"
    path = write_run(tmp_path / "run", {6: (1.0, 2.0)})
    (path / "config.json").write_text(config.to_json())
    (run,) = read_runs([str(path)])
    found = run.sizes()
    assert found["train"]["runs"] == 5 and found["params"] > found["encoder_params"] > 0
    record_start(path, {}, {}, measure(config, open_data(config)))
    shutil.move(path / "config.json", tmp_path)  # not looked at any more
    assert run.sizes() == found
    # Of a restarted run those of its end count.
    record_start(path, {}, {}, {**found, "params": 1})
    assert run.sizes()["params"] == 1
    (path / "provenance.json").unlink()
    old = json.loads((tmp_path / "config.json").read_text())
    del old["data"]["cache_dir"]
    (path / "config.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match="older version"):
        run.sizes()
