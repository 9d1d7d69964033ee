"""Points on this machine: in order, several at a time, stopped, killed, failed, and tried again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.errors import InputError
from fmrifm.sweep import local
from fmrifm.sweep.ledger import Ledger, launching, open_ledger
from fmrifm.sweep.local import launch_local
from fmrifm.sweep.status import describe_failures, describe_sweep
from fmrifm.sweep.sweep_file import Experiment, Sweep
from tests.conftest import ROOT
from tests.sweep.fake_sweeps import STEPS, make_sweep


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "sweep.jsonl").read_text().splitlines()]


def test_points_run_stage_after_stage_and_a_failure_stops_no_other(tmp_path):
    stages = ["open('a', 'w')", "assert os.path.exists('a'); print('end of b'); open('b', 'w')"]
    fails = "print('one'); print('loss 1\\rloss 2'); sys.exit('error: no such store')"
    ledger = make_sweep(tmp_path, bad=fails, good=stages)
    assert {line["status"] for line in lines(tmp_path)} == {"pending"}
    assert launch_local(ledger, ["bad", "good"], jobs=1)
    bad, good = lines(tmp_path)
    assert bad == {
        "name": "bad",
        "overrides": {"seed": 0},
        "workdir": str(tmp_path / "bad"),
        "status": "failed",
        "returncode": 1,
        "error": "one\nloss 2\nerror: no such store",
    }
    assert (good["status"], good["returncode"], good["error"]) == ("done", 0, None)
    assert (tmp_path / "good" / "b").exists()
    told = describe_failures(ledger)
    assert "bad failed (exit 1)" in told and "no such store" in told and "good" not in told
    assert "1 done, 1 failed" in describe_sweep(ledger, ledger.states())
    # Mended, it is tried again; what is done is not.
    make_sweep(tmp_path, bad="print('well')", good=stages)
    (tmp_path / "good" / "b").unlink()
    launch_local(Ledger(tmp_path), ["bad", "good"], jobs=2)
    assert [line["status"] for line in lines(tmp_path)] == ["done", "done"]
    assert not (tmp_path / "good" / "b").exists()


def test_a_stage_that_is_done_is_not_repeated(tmp_path):
    first = "open('count', 'a').write('x')"
    ledger = make_sweep(tmp_path, point=[first, "sys.exit(3)"])
    launch_local(ledger, ["point"], jobs=1)
    assert lines(tmp_path)[0]["returncode"] == 3
    ledger = make_sweep(tmp_path, point=[first, "pass"])
    launch_local(ledger, ["point"], jobs=1)
    assert (tmp_path / "point" / "count").read_text() == "x"
    assert lines(tmp_path)[0]["status"] == "done"


def test_a_stage_that_was_done_may_not_become_another(tmp_path, monkeypatch):
    ledger = make_sweep(tmp_path, point=["pass", "sys.exit(3)"])
    launch_local(ledger, ["point"], jobs=1)
    with pytest.raises(InputError, match="point .* another command"):
        make_sweep(tmp_path, point=["print('new')", "pass"])
    # Not even where the plan has forgotten it in between.
    make_sweep(tmp_path, other="pass")
    with pytest.raises(InputError, match="point .* another command"):
        make_sweep(tmp_path, point=["print('new')", "pass"])


def test_one_more_stage_is_made_up_for(tmp_path):
    launch_local(make_sweep(tmp_path, point="pass"), ["point"], jobs=1)
    ledger = make_sweep(tmp_path, point=["pass", "open('probe', 'w')"])
    assert ledger.state("point")["status"] == "pending"
    launch_local(ledger, ["point"], jobs=1)
    assert ledger.state("point")["status"] == "done" and (tmp_path / "point" / "probe").exists()


def test_damaged_files_of_a_sweep_are_made_again(tmp_path, capsys):
    stages = ["open('count', 'a').write('x')", "pass"]
    launch_local(make_sweep(tmp_path, a=stages, b="pass"), ["a", "b"], jobs=1)
    state, plan = tmp_path / "a" / "point.json", tmp_path / "sweep.json"
    whole, expected = state.read_bytes(), lines(tmp_path)
    damages = (b"", whole[:-9], b"\0" * len(whole), b"\xff" + whole, b"[1]", b"{}",
               whole.replace(b'"returncode": 0', b'"returncode": 4'))  # fmt: skip
    for number, damaged in enumerate(damages):
        state.write_bytes(damaged)
        if number == 0:
            plan.write_bytes(plan.read_bytes()[:-9])
            with pytest.raises(InputError, match="sweep.json is damaged: launch the sweep again"):
                Ledger(tmp_path)
        (tmp_path / "sweep.jsonl").write_bytes(damaged)
        ledger = make_sweep(tmp_path, a=stages, b="pass")
        assert [x["status"] for x in lines(tmp_path)] == ["pending", "done"], damaged
    assert capsys.readouterr().err.count("point.json is damaged") == 1
    launch_local(ledger, ["a", "b"], jobs=1)
    assert lines(tmp_path) == expected and (tmp_path / "a" / "count").read_text() == "xx"


def test_other_spellings_of_paths_are_the_same_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def begin(directory: str, seed: int) -> Ledger:
        command = ["-c", "pass", f"--workdir={directory}/a", f"--config.seed={seed}"]
        sweep = Sweep("x", [Experiment("a", {}, f"{directory}/a", [command])], ())
        return open_ledger(sweep, tmp_path / "runs")

    (tmp_path / "runs").mkdir()
    launch_local(begin("runs", 0), ["a"], jobs=1)
    assert begin(str(tmp_path / "runs"), 0).state("a")["status"] == "done"
    with pytest.raises(InputError, match="another command"):
        begin("runs", 1)


def launch(workdir: Path, jobs: int) -> subprocess.Popen:
    code = (
        "import sys; from fmrifm.sweep.ledger import Ledger, launching\n"
        "from fmrifm.sweep.local import launch_local\n"
        f"ledger = Ledger({str(workdir)!r})\n"
        "with launching(ledger.workdir):\n"
        f"    sys.exit(not launch_local(ledger, ledger.experiments, {jobs}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)


def wait_for_steps(*points: Path) -> None:
    for _ in range(1200):
        if all((point / "steps").exists() for point in points):
            return
        time.sleep(0.05)
    raise AssertionError("nothing begins")


def test_a_signal_lets_runs_save_and_the_same_call_goes_on(tmp_path):
    ledger = make_sweep(tmp_path, **{x: STEPS.format(steps=200) for x in ("a", "b", "c")})
    process = launch(tmp_path, jobs=2)
    wait_for_steps(tmp_path / "a", tmp_path / "b")
    assert [line["status"] for line in lines(tmp_path)] == ["running", "running", "pending"]
    with pytest.raises(InputError, match="Another process"), launching(tmp_path):
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1 and b"Stopping" in process.stderr.read()
    assert [line["status"] for line in lines(tmp_path)] == ["pending"] * 3
    assert not (tmp_path / "c" / "steps").exists()
    assert launch_local(ledger, list("abc"), jobs=3)
    assert [line["status"] for line in lines(tmp_path)] == ["done"] * 3
    for name in "abc":  # nothing was done twice
        assert len((tmp_path / name / "steps").read_text().splitlines()) == 200


def test_a_launcher_whose_terminal_is_gone_still_stops_its_runs(tmp_path):
    make_sweep(tmp_path, a=STEPS.format(steps=10_000), b="pass")
    process = launch(tmp_path, jobs=1)
    process.stderr.close()
    wait_for_steps(tmp_path / "a")
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 1
    assert [line["status"] for line in lines(tmp_path)] == ["pending", "pending"]


def test_a_killed_launcher_leaves_work_that_the_next_one_waits_for(tmp_path):
    ledger = make_sweep(tmp_path, a=STEPS.format(steps=120), b="pass")
    process = launch(tmp_path, jobs=1)
    wait_for_steps(tmp_path / "a")
    process.kill()
    process.wait()
    assert ledger.state("a")["status"] == "running"  # by itself
    assert launch_local(ledger, ["a", "b"], jobs=1)
    pids = (tmp_path / "a" / "steps").read_text().splitlines()
    assert len(pids) == 120 and len(set(pids)) == 1  # nobody worked beside it
    assert [line["status"] for line in lines(tmp_path)] == ["done", "done"]


def test_a_killed_point_is_no_longer_running(tmp_path):
    ledger = make_sweep(tmp_path, a=STEPS.format(steps=10_000))
    process = launch(tmp_path, jobs=1)
    wait_for_steps(tmp_path / "a")
    process.kill()
    os.kill(int((tmp_path / "a" / "steps").read_text().split()[0]), signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if ledger.state("a")["status"] == "pending":
            break
        time.sleep(0.05)
    assert "1 pending" in describe_sweep(ledger, ledger.states())
    make_sweep(tmp_path, a="pass")  # nothing of it was done, so it may be another one


def test_a_point_of_another_machine_is_believed_until_it_is_silent(tmp_path):
    ledger = make_sweep(tmp_path, a="pass")
    ledger.note("a", status="running", host="another")
    assert ledger.state("a")["status"] == "running"
    for file in (tmp_path / "a").iterdir():
        os.utime(file, (0, time.time() - 2 * 3600))
    assert ledger.state("a")["status"] == "pending"


def test_a_sweep_may_grow_but_not_change_what_was_run(tmp_path, capsys):
    ledger = make_sweep(tmp_path, a="pass", b="sys.exit(1)")
    launch_local(ledger, ["a", "b"], jobs=1)
    grown = make_sweep(tmp_path, a="pass", b="print(2)", c="print(3)")
    assert [grown.state(x)["status"] for x in "abc"] == ["done", "failed", "pending"]
    with pytest.raises(InputError, match="point a .* another command"):
        make_sweep(tmp_path, a="print(1)", b="pass")
    make_sweep(tmp_path, b="pass")
    assert "no point a any more" in capsys.readouterr().out
    assert [line["name"] for line in lines(tmp_path)] == ["b"] and (tmp_path / "a").is_dir()


@pytest.mark.parametrize(
    "visible, jobs, shares",
    [("0,1,2,3", 2, ["0,1", "2,3"]), ("4,6", 2, ["4", "6"]), ("", 2, [None, None])],
)
def test_points_share_the_gpus(monkeypatch, visible, jobs, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = [local.share_of_gpus(slot, jobs).get("CUDA_VISIBLE_DEVICES") for slot in range(jobs)]
    assert given == shares
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(InputError, match="more than the 1 GPUs"):
        local.share_of_gpus(0, 2)
