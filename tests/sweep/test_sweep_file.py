"""From a sweep file to commands, and what is wrong with one."""

import textwrap

import pytest

from data_tools.errors import InputError
from fmrifm.sweep.sweep_file import read_sweep
from tests.conftest import load_config

CONFIG = "from configs.pretrain import get_config\nfrom fmrifm.sweep.combine import *\n"


def read(tmp_path, code, arg="", given=(), workdir="runs"):
    file = tmp_path / "sweep.py"
    file.write_text(CONFIG + textwrap.dedent(code))
    return read_sweep(f"{file}{arg}", load_config(), dict(given), workdir)


def test_commands(tmp_path):
    code = """
    def get_sweep():
        return product(values("optim.lr", 1e-3), values("data.train", "a?x=1&y=2", "b"))
    """
    sweep = read(tmp_path, code, ":d3", {"seed": 7, "optim.lr": 3.0})
    first, second = sweep.experiments
    assert second.name == "lr-0.001_train-b" and first.name.startswith("lr-0.001_train-a-x-1-y-2-")
    assert second.workdir == "runs/lr-0.001_train-b"
    assert first.commands == [
        [
            *("-m", "fmrifm.pretrain", f"--config={tmp_path / 'sweep.py'}:d3"),
            *(f"--workdir=runs/{first.name}", "--config.seed=7", "--config.optim.lr=0.001"),
            "--config.data.train=a?x=1&y=2",
        ]
    ]
    assert sweep.reports == ("table",)


def test_functions_get_what_they_ask_for(tmp_path):
    code = """
    REPORTS = ("table", "scaling")
    def get_sweep(arg, config, other=1):
        return values("seed", *range(int(arg))) + [{"batch_size": config.batch_size * 2}]
    def get_probes(config):
        return {"sex": {"config": "configs/probe.py:sex", "heads": ("knn",), "data.train": "x"}}
    """
    sweep = read(tmp_path, code, ":2")
    assert [x.name for x in sweep.experiments] == ["seed-0", "seed-1", "batch_size-64"]
    assert sweep.experiments[0].commands[1] == [
        *("-m", "fmrifm.probe", "--config=configs/probe.py:sex"),
        *("--workdir=runs/seed-0/probes/sex", "--config.model=runs/seed-0"),
        *("--config.heads=('knn',)", "--config.data.train=x"),
    ]
    assert sweep.reports == ("table", "scaling")


def test_equal_points_are_one(tmp_path):
    code = """
    def get_sweep():
        yield {}
        yield {"seed": 1, "optim": {"lr": 0.1}}
        yield {"seed": 1, "optim.lr": 0.1}
    """
    assert [x.name for x in read(tmp_path, code).experiments] == ["base", "seed-1_lr-0.1"]


@pytest.mark.parametrize(
    "code, words",
    [
        ("", "has no get_sweep"),
        ("def get_sweep(): return []", "gives no point"),
        ("def get_sweep(): return {'seed': 1}", "give dictionaries"),
        ("def get_sweep(): return None", "give dictionaries"),
        ("def get_sweep(): return ['seed']", "give dictionaries"),
        ("def get_sweep(size): return [{}]", "'config' and 'arg'"),
        ("def get_sweep(): return [{'name': 'a', 'seed': 1}, {'name': 'a'}]", "have the name 'a'"),
        ("def get_sweep(): return [{'name': '../a'}]", "no good directory"),
        ("def get_sweep(): return [{'name': 'table.md'}]", "taken"),
        ("REPORTS = 'x',\ndef get_sweep(): return [{}]", "choose of table, scaling"),
        ("def get_sweep(): return [{'seed': None}]", "seed=None"),
    ],
)
def test_mistakes_are_named(tmp_path, code, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, code)
