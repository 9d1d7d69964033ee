"""The command, from a sweep file to a table: killed in the middle, and finished."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SWEEP = """
from configs.pretrain import get_config as recipe
from fmrifm.sweep.combine import values


def get_config(arg=""):
    config = recipe("d3,runlocal")
    config.batch_size = 4
    config.total_steps = config.eval_every = 4
    config.log_every = config.checkpoint_every = 2
    config.figures, config.eval_linear = 0, False
    config.model.update(
        embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2, patch=8,
    )
    return config


def get_sweep():
    return values("seed", 0, 1, 2)


def get_probes(config):
    store = config.data.train
    parts = {"train": "0[012]", "val": "03", "test": "04"}
    stores = {f"data.{name}": f"{store}?subject={some}" for name, some in parts.items()}
    fields = {"representations": ("avg_patch",), "baselines": ()}
    return {"task": {"config": "configs/probe.py", **fields, **stores}}
"""


@pytest.fixture
def sweep(stores, tmp_path):
    """Starts the command with some flags more."""
    (tmp_path / "sweep.py").write_text(SWEEP)
    command = [
        *(sys.executable, "-m", "fmrifm.sweep", f"--config={tmp_path / 'sweep.py'}"),
        *(f"--workdir={tmp_path / 'runs'}", f"--config.data.train={stores['train']}"),
        f"--config.data.eval=held={stores['eval']}",
    ]
    cache = os.environ["FMRIFM_TESTS_CACHE"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache}

    def start(*flags: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, **pipes)

    return start


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "sweep.jsonl").read_text().splitlines()]


def test_a_sweep_that_is_killed_goes_on_to_its_table(sweep, tmp_path):
    runs = tmp_path / "runs"
    process = sweep()
    deadline = time.monotonic() + 300
    while not (runs / "seed-1" / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.kill()
    process.communicate()
    assert [line["status"] for line in lines(runs)] == ["done", "running", "pending"]
    before = (runs / "seed-0" / "metrics.jsonl").read_bytes()

    output, errors = sweep("--jobs=2").communicate(timeout=400)
    assert [line["status"] for line in lines(runs)] == ["done"] * 3, errors
    assert (runs / "seed-0" / "metrics.jsonl").read_bytes() == before
    for name in ("seed-1", "seed-2"):
        steps = [json.loads(x)["step"] for x in (runs / name / "metrics.jsonl").open()]
        assert steps == [2, 4, 4]
    table = (runs / "table.md").read_text()
    assert "3 seeds" in table and "avg_patch_logistic" in table and table.strip() in output
    assert "3 points: 3 done" in output
    status = sweep("--status").communicate(timeout=100)[0]
    assert "seed-2" in status and "2 of 2" in status and "held" in status


def test_commands_are_printed_and_wrong_points_named(sweep, tmp_path):
    shown, errors = sweep("--launcher=print", "--only=seed-1").communicate(timeout=100)
    pretrain, probe = shown.splitlines()
    assert pretrain.startswith("python -m fmrifm.pretrain ") and "--config.seed=1" in pretrain
    assert f"--config.model={tmp_path / 'runs' / 'seed-1'}" in probe, errors
    process = sweep("--config.model.size=d4")
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 1 and "3 of 3 points cannot run" in errors
    assert "  seed-2: model.size='d4' is unknown" in errors and "Traceback" not in errors
    assert not (tmp_path / "runs").exists()
