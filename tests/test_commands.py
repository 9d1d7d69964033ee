"""All commands under one name, their help, and configs as a run would use them."""

import subprocess
import sys

import pytest

from data_tools.errors import InputError
from fmrifm.__main__ import COMMANDS, DATA_COMMANDS, describe_commands
from fmrifm.command_line import find_config, ready_configs
from fmrifm.show_config import show_config
from tests.conftest import ROOT

NAMES = [[name] for name in COMMANDS] + [["data", name] for name in DATA_COMMANDS]
# Starts of these would make every help and every mistake wait for a second.
HEAVY = ("jax", "sklearn", "matplotlib", "scipy.signal", "scipy.stats")


def call(*arguments, folder=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "fmrifm", *arguments], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_help_is_quick_and_names_the_flags(name):
    code = f"""
import sys
from fmrifm.__main__ import main
sys.argv = ["fmrifm", *{name}, "--help"]
try:
    main()
finally:
    sys.stderr.write(" ".join(x for x in {HEAVY} if x in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert "--" in done.stdout


def test_the_list_has_a_line_for_every_command():
    lines = describe_commands().splitlines()
    for name in NAMES:
        (line,) = [x for x in lines if x.startswith(f"  {' '.join(name)} ")]
        assert len(line.split()) > len(name) + 3
    unknown = call("pretrian")
    assert unknown.returncode == 2 and "did you mean 'pretrain'?" in unknown.stderr


def test_no_command_is_left_out():
    """Every module that can be started belongs to the list, which people look through."""
    found = set()
    for package in ("fmrifm", "data_tools"):
        for path in [*(ROOT / package).glob("*.py"), *(ROOT / package).glob("*/__main__.py")]:
            if '__name__ == "__main__"' in path.read_text() and path.stem != "show_config":
                name = path.parent.name if path.stem == "__main__" else path.stem
                found.add((package, name))
    named = {("fmrifm", name) for name in COMMANDS} | {("data_tools", x) for x in DATA_COMMANDS}
    assert found - {("fmrifm", "fmrifm")} == named - {("fmrifm", "config")}


def test_a_closed_pipe_is_no_error():
    """As with `fmrifm --help | head -1`."""
    command = f"{sys.executable} -m fmrifm --help | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("usage: fmrifm NAME") and done.stderr == ""


def test_training_flags_are_all_in_its_help():
    text = call("pretrain", "--help").stdout
    for flag in ("config", "workdir", "distributed", "coordinator", "profile", "max_hours"):
        assert f"--{flag}:" in text
    assert "fmrifm config" in text


def test_ready_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"pretrain", "probe", "quickstart", "published"} <= set(ready_configs())
    assert find_config("pretrain:d3") == f"{ROOT / 'configs' / 'pretrain.py'}:d3"
    (tmp_path / "pretrain.py").write_text("")
    for own in ("pretrain.py", "pretrain.py:d3", "other.py", "none:d3"):
        assert find_config(own) == own


def test_a_config_is_shown_with_its_comments_and_changes():
    lines = show_config("pretrain:d3", ["--optim.base_lr=0.5", "--config.seed=3"]).splitlines()
    by_name = {line.split(" = ")[0]: line for line in lines}
    assert by_name["optim.base_lr"].startswith("optim.base_lr = 0.5 ")
    assert "[changed from None]" in by_name["optim.base_lr"]
    assert "[changed from 0] of initial weights" in by_name["seed"]
    assert "changed" not in by_name["batch_size"] and "clips" in by_name["batch_size"]
    without = [name for name, line in by_name.items() if "  # " not in line]
    assert not without, f"{without} have no comment in the config file."
    # A config that builds on another one keeps the comments of that.
    assert "clips of the global batch" in show_config("quickstart", [])
    with pytest.raises(InputError, match="'lrr'.*did you mean"):
        show_config("pretrain", ["--optim.lrr=1"])
