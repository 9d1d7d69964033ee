"""From runs to laws: which runs are fitted, what is left behind, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.scaling.analyse import analyse
from fmrifm.scaling.fit_scaling import as_dict, fit_scaling
from fmrifm.scaling.law_figures import draw_scaling
from fmrifm.scaling.points import Point, read_points
from tests.conftest import ROOT

FRAMES = [100_000, 200_000, 400_000, 800_000, 1_600_000]


def write_run(
    path, losses, frames=100_000, params=8_000_000, keep_best=None, seed=0, steps=100, **sizes
):
    """A finished run; losses: {set: loss}; halfway they were higher by 0.1."""
    path.mkdir(parents=True)
    config = {"seed": seed, "batch_size": 32, "total_steps": steps, "keep_best": keep_best}
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": step, **{f"eval/{name}/loss": loss + more for name, loss in losses.items()}}
        for step, more in ((steps // 2, 0.1), (steps, 0.0))
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sizes = {
        "params": 2 * params,
        "encoder_params": params,
        "flops_per_clip": 60.0 * params,
        "train": {"frames": frames, "runs": 10, "subjects": 5, "datasets": ["HCP"]},
        "eval": {"held_out": ["HCP", "NSD"], "nsd": ["NSD"]},
        **sizes,
    }
    start = {"sizes": sizes, "config": config}
    (path / "provenance.json").write_text(json.dumps({"version": 1, "starts": [start]}))


def loss_of(frames, seed=0):
    return (frames / 9.0) ** -0.014 * (1 + 1e-3 * np.sin(97.0 * seed + frames))


@pytest.fixture
def study(tmp_path):
    """Two seeds of five amounts of data; and a larger model on three of them."""
    for frames in FRAMES:
        for seed in (0, 1):
            loss = loss_of(frames, seed)
            losses = {"nsd": 0.98 * loss, "held_out": loss}
            write_run(tmp_path / f"runs/f{frames}-{seed}", losses, frames, seed=seed)
    for frames in FRAMES[:3]:
        losses = {"nsd": 0.9, "held_out": 0.8}
        write_run(tmp_path / f"runs/large-{frames}", losses, frames, params=80_000_000)
    return tmp_path


def iso_flop_points(g=0.5, k=1e3, sizes=(0.25, 0.5, 1, 2, 4), shift=1.0):
    """Budgets whose best model is (C/k)^g, with a loss of (C/1e3)^-0.01 there."""
    points = []
    for flops in (1e15, 1e16, 1e17, 1e18):
        best = (flops / k) ** g
        for size in sizes:
            loss = (flops / 1e3) ** -0.01 + 0.004 * np.log(size * shift) ** 2
            name = f"{flops:g}-{size}"
            steps = round(flops / (best * size * shift) / 1e6)
            points.append(Point(name, "held", loss, 1e6, best * size * shift, flops, 32, steps))
    return points


def test_the_main_fits_what_runs_vary(study):
    command = [sys.executable, "-m", "fmrifm.scaling", f"--runs={study}/runs/*"]
    command += [f"--output={study}/out", "--title=Data"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = (study / "out" / "table.md").read_text()
    assert text in told
    assert {path.name for path in (study / "out").iterdir()} == {
        "fit.json", "table.md", "scaling.png",
    }  # fmt: skip
    found = json.loads((study / "out" / "fit.json").read_text())
    fits = found["fits"]
    assert found["version"] == 1
    # what is in distribution comes first; the three runs of the larger model are another group
    assert [(fit["set"], fit["x"], fit["law"], fit["n"]) for fit in fits] == [
        ("held_out", "frames", "power", 10),
        ("held_out", "frames", "floor", 10),
        ("nsd", "frames", "power", 10),
        ("nsd", "frames", "floor", 10),
    ]
    assert [group["distribution"] for group in found["groups"]] == ["in", "out"]
    assert found["groups"][0]["alike"] == "8,000,000 encoder parameters, 32 clips a step, 100 steps"
    power, floor = fits[:2]
    assert set(power) == {
        "set", "x", "law", "a", "b", "E", "ci", "held_out_error", "best", "n",
    }  # fmt: skip
    assert power["E"] is None and set(power["ci"]) == {"a", "b"}
    assert set(floor["ci"]) == {"a", "b", "E"} and floor["E"] >= 0
    assert power["ci"]["b"][0] < -0.014 < power["ci"]["b"][1]
    assert power["best"] != floor["best"]
    point = found["points"][0]
    assert point["flops"] == 60 * 8e6 * 32 * 100 and point["checkpoint"] == "last"
    assert len(found["points"]) == 26 and point["draw"] == "seed 0"
    assert "## held_out (in distribution), frames" in text and "| (N/a)^b |" in text


def test_the_best_loss_of_each_budget_and_its_model_are_found():
    (scaling,) = analyse(iso_flop_points(), replicates=60)
    law = scaling.iso_flop.law
    assert scaling.group.x == "flops"
    assert law.b == pytest.approx(0.5) and law.a == pytest.approx(1e3, rel=1e-3)
    assert law.intervals()["b"][0] < 0.5 < law.intervals()["b"][1]
    np.testing.assert_allclose(scaling.loss, (scaling.x / 1e3) ** -0.01)
    assert scaling.choice.fits["power"].b == pytest.approx(-0.01)
    found = as_dict([], [scaling])
    budget = found["groups"][0]["iso_flop"]["budgets"][0]
    assert budget["optimal_params"] == pytest.approx(1e6)
    curve = np.polyval(budget["parabola"], np.log(budget["params"]))
    np.testing.assert_allclose(curve, budget["losses"])
    assert found["fits"][0]["n"] == 4


def test_a_minimum_outside_of_the_sizes_tried_is_not_used(tmp_path):
    (scaling,) = analyse(iso_flop_points(shift=10.0), replicates=2)
    assert scaling.choice is None and scaling.iso_flop.law is None
    assert all(budget.optimal_params is None for budget in scaling.iso_flop.budgets)
    assert as_dict([], [scaling])["fits"] == []


def test_one_run_for_each_budget_is_fitted_as_it_is(tmp_path):
    for i in range(4):
        params = 10**6 * 4**i
        losses = {"held_out": (params / 5) ** -0.02}
        write_run(tmp_path / f"{i}", losses, params=params)
    found = analyse(read_points([f"{tmp_path}/*"]), replicates=2)
    assert [scaling.group.x for scaling in found] == ["params", "flops"]
    assert [scaling.choice.fits["power"].b for scaling in found] == pytest.approx([-0.02] * 2)
    assert found[0].choice.fits["power"].a == pytest.approx(5, rel=1e-6)


def test_steps_may_grow_with_the_frames(tmp_path):
    """As many epochs for each, where no amounts of data share their steps."""
    for i in range(4):
        frames = 10**5 * 2**i
        losses = {"held_out": (frames / 5) ** -0.02}
        write_run(tmp_path / f"{i}", losses, frames, steps=100 * 2**i)
    found = {scaling.group.x: scaling for scaling in analyse(read_points([f"{tmp_path}/*"]))}
    assert found["frames"].choice.fits["power"].b == pytest.approx(-0.02)
    assert "100 to 800 steps" in found["frames"].group.alike


def test_losses_are_of_one_kind_of_checkpoint_and_fair(tmp_path):
    losses = {"held_out": 0.8, "nsd": 0.9}
    for i, best in enumerate(["nsd", "nsd", None]):
        write_run(tmp_path / f"{i}", losses, FRAMES[i], keep_best=best)
    with pytest.raises(InputError, match="Checkpoints of the runs differ.*--checkpoint=last"):
        read_points([f"{tmp_path}/*"])
    assert {point.checkpoint for point in read_points([f"{tmp_path}/*"], "last")} == {"last"}
    chosen = read_points([f"{tmp_path}/[01]"])
    assert {(point.set, point.checkpoint) for point in chosen} == {("held_out", "best on nsd")}
    write_run(tmp_path / "only", {"nsd": 0.9}, keep_best="nsd")
    with pytest.raises(InputError, match="the only evaluation set"):
        read_points([f"{tmp_path}/only"])


def test_distributions_are_those_of_datasets(tmp_path):
    losses = {"held_out": 0.8, "nsd": 0.9, "other": 0.9}
    write_run(tmp_path / "run", losses)
    kinds = {point.set: point.distribution for point in read_points([f"{tmp_path}/run"])}
    assert kinds == {"held_out": "in", "nsd": "out", "other": "unknown"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames,loss\n1,0.5\n", "has no column 'set'"),
        ("frames,set,loss\n1,a,high\n", "points.csv:2 has no number as its loss"),
        ("frames,set,loss\n-1,a,0.5\n", "points.csv:2 has no size above 0"),
        ("frames,set,loss\n1,a,0\n", "points.csv:2 has the loss 0.0 on a"),
        ("frames,set,loss,distribution\n1,a,0.5,ood\n", "write in or out"),
        ("frames,set,loss\n1,a,0.5\n2,a,0.4\n", "2 of frames, 0 of params, 0 of flops: add runs"),
    ],
)
def test_tables_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        fit_scaling([str(tmp_path / "points.csv")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_of_draws_is_drawn(tmp_path):
    rows = [f"{n},{name},{loss_of(n, i)},{name},in" for n in FRAMES for i, name in enumerate("ab")]
    rows = [row.replace(",a,", ",held,", 1).replace(",b,", ",held,", 1) for row in rows]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["frames,set,loss,draw,distribution", *rows]))
    points = read_points([str(path)])
    assert [point.draw for point in points] == ["a", "b"] * 5
    (scaling,) = analyse(points, replicates=20)
    assert scaling.distribution == "in"
    draw_scaling(tmp_path / "scaling.png", [scaling])
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
