"""Commands: each value of each field comes back from its flag, and what cannot is refused."""

import math
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.sweep.arguments import command_line, flag_of, quote, read_config
from tests.conftest import ROOT, load_config

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of absl
FILES = {name: str(ROOT / "configs" / f"{name}.py") for name in ("pretrain", "probe")}
# What a process can be given as an argument, and what is hard to quote more often than chance.
HARD = ("", " ", "None", "true", "1", "-1", "--x=1", "a=b,c?task=R*&x='y'@0.7", '("a",)', "a\nb")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TEXTS |= st.sampled_from(HARD)
NUMBERS = {int: st.integers(), float: st.floats(allow_nan=False)}
WITHIN = TEXTS | NUMBERS[int] | NUMBERS[float] | st.booleans()
TYPES = {**NUMBERS, str: TEXTS, bool: st.booleans(), tuple: st.lists(WITHIN).map(tuple)}


def fields(config: ConfigDict, prefix: str = "") -> dict[str, type]:
    """The type of each field, "optim.lr" and so on."""
    found = {}
    for name in config:
        kind = config.get_type(name)
        inner = issubclass(kind, ConfigDict)
        found |= fields(config[name], f"{prefix}{name}.") if inner else {prefix + name: kind}
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_field_comes_back(name):
    kinds = fields(load_config(name))
    assert len(kinds) > 40 and set(kinds.values()) <= set(TYPES)
    values = st.fixed_dictionaries({}, optional={k: TYPES[kind] for k, kind in kinds.items()})

    @settings(max_examples=60, deadline=None)
    @given(values)
    def check(overrides):
        command = command_line(f"fmrifm.{name}", FILES[name], "run", overrides)
        assert command[:4] == ["-m", f"fmrifm.{name}", f"--config={FILES[name]}", "--workdir=run"]
        expected = load_config(name)
        expected.update_from_flattened_dict(overrides)
        # As written by a user into a shell, and read by it.
        assert read_config(shlex.split(quote(command))[1:]).to_dict() == expected.to_dict()

    check()


def test_values_of_other_kinds_are_those_they_stand_for():
    overrides = {
        "optim.lr": np.float64(0.1), "seed": np.int64(3), "optim.b1": 1,
        "optim.clip_norm": math.inf, "probe.representations": ["cls", "patch"],
        "init_from": None, "augment.tr_scale": 1e-07,
    }  # fmt: skip
    command = command_line("fmrifm.pretrain", f"{FILES['pretrain']}:d3", "run", overrides)
    assert "--config.optim.lr=0.1" in command and "--config.augment.tr_scale=1e-07" in command
    config = read_config(command)
    assert (config.optim.lr, config.seed, config.optim.b1) == (0.1, 3, 1.0)
    assert config.optim.clip_norm == math.inf and config.model.size == "d3"
    assert config.probe.representations == ("cls", "patch") and config.init_from is None
    assert math.isnan(read_config([command[2], flag_of("optim.lr", math.nan)]).optim.lr)


@pytest.mark.parametrize(
    "field, value",
    [
        ("grid.lr", None),
        ("grid", {"lr": 1.0}),
        ("model", "zero\0byte"),
        ("model", "half \ud800"),
        ("bins", (1.0, math.nan)),
        ("heads", ("a", ConfigDict())),
        ("leak_keys", {"subject"}),
        ("grdi.lr", None),
    ],
)
def test_what_no_flag_can_say_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        command_line("fmrifm.probe", FILES["probe"], "run", {"seed": 1, field: value})


def test_nonsense_is_told_as_the_mains_do(tmp_path):
    file = f"--config={FILES['pretrain']}"
    for arguments, words in (
        ([], ["--config"]),
        (["--config=nothing.py", "--config.seed=1"], ["nothing.py", "check --config"]),
        ([file, "--config.optm.lr=1"], ["'optm'", "'optim'"]),
        ([file, "--config.optim.lr=fast"], ["config.optim.lr", "fast"]),
        ([file, "--config.seed=1.5"], ["config.seed", "1.5"]),
        ([f"--config={FILES['probe']}:task22"], ["'task22'", "task21"]),
    ):
        with pytest.raises(InputError) as error:
            read_config(["-m", "fmrifm.pretrain", *arguments])
        assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    # A file without get_config does not take that of the file before it.
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(AttributeError, match="get_config"):
        read_config([f"--config={tmp_path / 'empty.py'}"])


def test_flags_as_users_write_them():
    config = read_config(
        ["-m", "fmrifm.probe", "--workdir", "a b", "-config", FILES["probe"], "--config.seed", "3",
         "--config.grid.standardize", "--config.heads=knn", "--config.heads=ridge", "--distributed",
         "-config.model=x", "--process_id", "0", "--noconfig.data.strict"]
    )  # fmt: skip
    assert (config.seed, config.model, config.heads) == (3, "x", ("knn", "ridge"))
    assert config.grid.standardize and not config.data.strict
    with pytest.raises(AttributeError):
        config.sed = 1  # locked, as a main has it
