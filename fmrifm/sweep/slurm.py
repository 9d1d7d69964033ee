"""Points of a sweep as jobs of a SLURM cluster, through submitit.

A minute and a half before a time-out SLURM sends SIGUSR1 to all processes of a job: runs save, and
submitit puts the job back in line, where it goes on from the checkpoint. So it does before a
preemption where the cluster is set to send that signal (PreemptParameters=send_user_signal); where
it sends SIGTERM runs save too, and whether the job comes again is up to the cluster.
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.sweep.ledger import DONE, PENDING, RUNNING, Ledger
from fmrifm.sweep.run_point import PointRun
from fmrifm.sweep.status import all_done, make_reports

# Executors of submitit. The last two are to try things out: all jobs at once on this machine, and
# one after the other in this process.
CLUSTERS = ("slurm", "local", "debug")
DEFAULTS = {"timeout_min": 24 * 60, "nodes": 1, "tasks_per_node": 1, "max_num_timeout": 1000}
_JOB = "slurm_job"  # file of a point with the id of its job
_SHARED = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
_IN_LINE = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING")


class Job:
    """What a job runs; pickled by submitit, and so it holds nothing but names."""

    def __init__(self, workdir: str, name: str):
        self.workdir, self.name = workdir, name
        self._run: PointRun | None = None

    def __call__(self) -> str:
        """Runs the point and returns its status."""
        import submitit

        here = submitit.JobEnvironment()
        first = here.global_rank == 0
        extra = ["--distributed"] if here.num_tasks > 1 else []
        self._run = PointRun(self.workdir, self.name, extra, writes=first)
        status = self._run.run()
        ledger = Ledger(self.workdir)
        if first and all_done(ledger):
            make_reports(ledger)
        return status

    def checkpoint(self) -> Any:
        """Ends the run in order; submitit calls it, in a signal handler, and submits the result."""
        import submitit

        if self._run is not None:
            self._run.stop()
            self._run.wait_for_child()
            Ledger(self.workdir).note(self.name, wait=False, status=PENDING)
        return submitit.helpers.DelayedSubmission(Job(self.workdir, self.name))


def submit(
    ledger: Ledger, names: Sequence[str], settings: Mapping[str, str], cluster: str, parallel: int
) -> list[Any]:
    """Submits points as one array of jobs, but for those that are in line already.

    Args:
      names: of points.
      settings: of submitit: timeout_min, mem_gb, nodes, cpus_per_task, gpus_per_node,
        tasks_per_node, max_num_timeout (how often a job may go back in line after a time-out), and
        options of sbatch such as partition, account, qos, constraint, signal_delay_s.
      cluster: one of CLUSTERS.
      parallel: how many jobs of the array SLURM runs at a time at most; 0 for all.

    Returns:
      submitit's jobs.
    """
    if importlib.util.find_spec("submitit") is None:
        raise InputError("--launcher=slurm needs submitit: pip install 'fmrifm[slurm]'.")
    # The signal at which runs save; submitit reads this when it is imported, here and in jobs.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    import submitit

    names = [name for name in names if not _is_in_line(ledger, name)]
    if not names:
        return []
    for name in names:
        ledger.note(name, status=PENDING, returncode=None, error=None)
    given = {**DEFAULTS, **settings}
    try:
        times = int(given.pop("max_num_timeout"))
        executor = submitit.AutoExecutor(
            ledger.workdir / "slurm", cluster=cluster, slurm_max_num_timeout=times
        )
        about = {"name": ledger.workdir.resolve().name}
        about["slurm_array_parallelism"] = parallel or len(names)
        executor.update_parameters(**_parameters(given) | about)
        with executor.batch():
            jobs = [executor.submit(Job(str(ledger.workdir.absolute()), name)) for name in names]
    except (RuntimeError, NameError, AssertionError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".?")
        raise InputError(
            f"submitit refuses this ({reason}): check --slurm, and that this is a SLURM cluster."
        ) from error
    for name, job in zip(names, jobs, strict=True):
        write_bytes(ledger.workdir / name / _JOB, str(job.job_id).encode())
    if cluster == "debug":
        for job in jobs:
            job.result()
    return jobs


def parse_settings(text: str) -> dict[str, str]:
    """{"partition": "gpu"} of "partition=gpu"; several are separated by commas."""
    settings: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if equals:
            settings[name.strip()] = value.strip()
        elif settings:  # of exclude=n1,n2
            settings[list(settings)[-1]] += f",{part.strip()}"
        else:
            raise InputError(f"--slurm={text} is no list of settings: write NAME=VALUE,....")
    return settings


def _parameters(settings: Mapping[str, str | int]) -> dict[str, Any]:
    """As AutoExecutor wants them."""
    parameters: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in _SHARED:
            parameters[f"slurm_{key}"] = value
            continue
        try:
            parameters[key] = float(value) if key == "mem_gb" else int(value)
        except ValueError as error:
            raise ValueError(f"{key}={value} is no number") from error
    return parameters


def _is_in_line(ledger: Ledger, name: str) -> bool:
    """Whether a job of an earlier launch will do a point."""
    import submitit

    status = ledger.state(name)["status"]
    if status == DONE:
        return False
    file = ledger.workdir / name / _JOB
    job = file.read_text() if file.exists() else ""
    if job.replace("_", "").isdecimal():
        try:
            found = submitit.SlurmJob(ledger.workdir / "slurm", job).state.split(" ")[0]
        except Exception:  # no sacct
            found = "UNKNOWN"
        if found != "UNKNOWN":
            return found in _IN_LINE
    # What comes twice all the same finds the point locked, or done.
    return status == RUNNING
