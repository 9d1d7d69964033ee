"""Jobs through submitit: its executors for one machine stand for a cluster."""

import os
import signal
from pathlib import Path

import pytest

from data_tools.errors import InputError
from fmrifm.sweep.ledger import Ledger
from fmrifm.sweep.slurm import parse_settings, submit
from tests.sweep.fake_sweeps import STEPS, make_sweep
from tests.sweep.test_local import lines, wait_for_steps

SHORT = {"timeout_min": "2"}


def test_jobs_of_submitit_run_points(tmp_path):
    ledger = make_sweep(tmp_path, a="print('of a')", b="sys.exit('error: of b')", c="pass")
    jobs = submit(ledger, ["a", "b"], SHORT, "local", 0)
    assert [job.result() for job in jobs] == ["done", "failed"]
    assert [line["status"] for line in lines(tmp_path)] == ["done", "failed", "pending"]
    assert lines(tmp_path)[1]["error"] == "error: of b"
    assert "of a" in (tmp_path / "a" / "log.txt").read_text()


def test_in_this_process(tmp_path):
    ledger = make_sweep(tmp_path, a="pass")
    (job,) = submit(ledger, ["a"], SHORT, "debug", 0)
    assert job.result() == "done" and lines(tmp_path)[0]["status"] == "done"


def test_a_job_that_is_preempted_saves_and_goes_back_in_line(tmp_path):
    ledger = make_sweep(tmp_path, a=STEPS.format(steps=200))
    (job,) = submit(ledger, ["a"], SHORT, "local", 0)
    wait_for_steps(tmp_path / "a")
    assert submit(ledger, ["a"], SHORT, "local", 0) == []  # it is at work already
    os.kill(parent_of(tmp_path / "a"), signal.SIGUSR1)  # as SLURM does before a time-out
    assert job.result() == "done"
    pids = (tmp_path / "a" / "steps").read_text().split()
    assert len(pids) == 200 and len(set(pids)) == 2  # two processes, and no step done twice
    assert lines(tmp_path)[0]["status"] == "done"


def parent_of(point: Path) -> int:
    """The process that runs the present stage of a point."""
    pid = (point / "steps").read_text().split()[0]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("PPid")))


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Commands of a SLURM cluster that keep what they are given."""
    programs = tmp_path / "programs"
    programs.mkdir()
    scripts = {
        "srun": "exit 0",
        "sbatch": f"cp $1 {tmp_path}/batch.sh; echo Submitted batch job 42",
        "sacct": "echo 'JobID|State|NodeList\n42_0|RUNNING|n1\n42_1|FAILED|n2'",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return tmp_path


def test_the_batch_file_of_an_array(cluster):
    ledger = make_sweep(cluster / "sweep", a="pass", b="pass", c="pass")
    settings = "partition=gpu,nodes=2,tasks_per_node=8,gpus_per_node=8,timeout_min=90,mem_gb=64"
    jobs = submit(ledger, ["a", "b"], parse_settings(settings), "slurm", 1)
    assert [job.job_id for job in jobs] == ["42_0", "42_1"]
    text = (cluster / "batch.sh").read_text()
    for line in (
        *("--array=0-1%1", "--partition=gpu", "--nodes=2", "--ntasks-per-node=8", "--time=90"),
        *("--gpus-per-node=8", "--mem=64GB", "--signal=USR1@90", "--job-name=sweep"),
    ):
        assert f"#SBATCH {line}" in text, line
    # One is in line still, the other failed without a word, and the third is new.
    assert (cluster / "sweep" / "b" / "slurm_job").read_text() == "42_1"
    assert len(submit(Ledger(cluster / "sweep"), ["a", "b", "c"], {}, "slurm", 0)) == 2
    assert "--array=0-1%2" in (cluster / "batch.sh").read_text()


def test_what_sbatch_refuses_is_a_sentence(cluster):
    (cluster / "programs" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    ledger = make_sweep(cluster / "sweep", a="pass", b="pass")
    with pytest.raises(InputError, match="refuses this.*check --slurm"):
        submit(ledger, ["a", "b"], {}, "slurm", 0)


def test_values_of_settings_may_have_commas():
    assert parse_settings("exclude=n1,n2,account=012") == {"exclude": "n1,n2", "account": "012"}


@pytest.mark.parametrize(
    "text, words",
    [("partition", "NAME=VALUE"), ("colour=red", "colour"), ("nodes=two", "nodes")],
)
def test_settings_that_make_no_sense_are_named(cluster, text, words):
    ledger = make_sweep(cluster / "sweep", a="pass")
    with pytest.raises(InputError, match=words):
        submit(ledger, ["a"], parse_settings(text), "slurm", 0)


def test_without_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="srun"):
        submit(make_sweep(tmp_path, a="pass"), ["a"], {}, "slurm", 0)
