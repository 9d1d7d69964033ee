"""What is wrong with a point is known before any starts; all that we ship are right."""

import pytest

from configs.probe import get_config
from fmrifm.sweep.arguments import read_config
from fmrifm.sweep.point_problem import find_problem
from fmrifm.sweep.sweep_file import read_sweep
from tests.conftest import ROOT

SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("*.py"))
TOY = {"model.patch": 8, "data.num_frames": 16}


def commands(stores, **overrides):
    config = f"--config={ROOT / 'configs' / 'pretrain.py'}:d3,runlocal"
    data = {"data.train": stores["train"], "data.eval": f"held={stores['eval']}"}
    fields = {
        **data,
        **TOY,
        "batch_size": 8,
        **{k.replace("__", "."): v for k, v in overrides.items()},
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [["-m", "fmrifm.pretrain", config, *flags]]


@pytest.mark.parametrize(
    "overrides, words",
    [
        ({}, None),
        ({"mesh__tensor": 4}, "mesh.tensor=4"),
        ({"batch_size": 12}, "batch_size=12"),
        ({"mesh__fsdp": 3}, "does not fit 8 devices"),
        ({"model__num_heads": 5}, "num_heads"),
        ({"model__size": "d4"}, "d4"),
        ({"optim__rate": 1}, "no field 'rate'"),
        ({"data__train": "/nowhere"}, "/nowhere"),
        ({"data__num_frames": 61}, "61"),
        ({"data__eval": "held=/nowhere"}, "/nowhere"),
        ({"keep_best": "other"}, "keep_best='other'"),
        ({"init_from": "/nowhere"}, "/nowhere"),
        ({"batch_size": "many"}, "many"),
        ({"probe__every": 10, "probe__task": "sex"}, "data.train"),
    ],
)
def test_points(stores, overrides, words):
    problem = find_problem(commands(stores, **overrides), get_config)
    assert problem is None if words is None else words in problem


def test_probes_of_a_point_are_checked_with_the_model_that_it_will_make(stores):
    point = commands(stores)
    probe = ["-m", "fmrifm.probe", f"--config={ROOT / 'configs' / 'probe.py'}"]
    probe.append("--config.model=x")
    splits = {"train": "0[012]", "val": "03", "test": "04"}
    probe += [f"--config.data.{k}={stores['train']}?subject={v}" for k, v in splits.items()]
    assert find_problem([*point, probe], get_config) is None
    probe.append("--config.representations=('patch@7',)")
    assert "patch@7" in find_problem([*point, probe], get_config)


READY = [(name, arg) for name in SWEEPS if name != "base" for arg in ("d3,runlocal", "simulated")]
READY += [("model_scaling", "simulated,iso_flop"), ("lr_batch", "simulated,random")]


@pytest.mark.parametrize("name, arg", READY)
def test_ready_sweeps(stores, name, arg, one_device):
    """Their first and last point, on toy stores."""
    file = f"{ROOT / 'configs' / 'sweeps' / name}.py:{arg}"
    evals = f"val={stores['eval']},test={stores['eval']}"
    given = {"data.train": str(stores["train"]), "data.eval": evals, **TOY}
    flags = [f"--config.{field}={value}" for field, value in given.items()]
    config = read_config([f"--config={file}", *flags])
    sweep = read_sweep(file, config, given, "runs")
    names = [experiment.name for experiment in sweep.experiments]
    assert len(names) > 2 and all(len(name) < 30 for name in names)
    for experiment in (sweep.experiments[0], sweep.experiments[-1]):
        assert find_problem(experiment.commands, get_config) is None
