"""The main job, as a newcomer runs it."""

import importlib.util
import json
import re

import pytest

from data_tools.errors import InputError
from fmrifm import quickstart
from fmrifm.quickstart import last_evaluation

SHORT = """
from configs.quickstart import get_config as whole


def get_config():
    config = whole()
    config.total_steps = config.eval_every = config.checkpoint_every = 4
    config.data.eval_clips = 16
    return config
"""


@pytest.mark.slow
def test_quickstart_from_scan_to_report(tmp_path, monkeypatch):
    """All steps of the command, with fewer people and four steps of training."""
    if importlib.util.find_spec("brainspace") is None:
        pytest.skip("the extra `demo` is not installed")
    workdir = tmp_path / "quickstart"
    (tmp_path / "short.py").write_text(SHORT)
    monkeypatch.setattr(quickstart, "CONFIG", tmp_path / "short.py")
    run, fewer = quickstart.Steps.run, {"--subjects=10": "--subjects=6", "--runs=3": "--runs=1"}

    def run_less(self, what, *arguments, done=None):
        run(self, what, *(fewer.get(x, x) for x in arguments), done=done)

    monkeypatch.setattr(quickstart.Steps, "run", run_less)
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # training takes minutes even so
    quickstart.quickstart(workdir)
    loss, zero, linear = last_evaluation(workdir / "pretrain", "held_out")
    assert linear < 0.75 * zero
    assert loss == pytest.approx(linear, rel=0.03)  # where the model begins
    results = json.loads((workdir / "probe" / "results.json").read_text())
    scores = {
        row["representation"]: row["splits"]["test"]["metrics"]["balanced_accuracy"]
        for row in results["results"]
    }
    assert scores["none"]["value"] == pytest.approx(1 / len(results["classes"]))
    assert scores["patch"]["value"] > 0.5 and scores["patch"]["low"] is None  # so few people
    assert all(row["splits"]["test"]["seen_in_pretraining"] == 0 for row in results["results"])
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6
    assert not re.search(r'(src|href)="?(https?:|/|\w+\.png)', page)  # nothing outside the file


def test_without_the_scan_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(quickstart, "RUN", "datasets/no_such_run.mgz")
    with pytest.raises(InputError, match="demo"):
        quickstart.quickstart(tmp_path / "quickstart")
    assert not (tmp_path / "quickstart").exists()
