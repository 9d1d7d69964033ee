"""No field of the config is idle, unexplained, or called by another name than it has."""

import functools
import inspect
import json
import re

import jax
import numpy as np
import pytest

from configs.cohort import get_config as get_cohort_config
from configs.probe import get_config as get_probe_config
from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.augment import Augmentation
from fmrifm.input.preprocess import cut_geometry
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import SIZES, ModelOptions, options_from_config
from fmrifm.probe.check_config import resolve_cohort, resolve_probe
from fmrifm.probe.run import training_probe
from fmrifm.runs.config import flatten
from fmrifm.trainer import loop
from fmrifm.trainer.mesh import make_mesh
from fmrifm.trainer.program import check_config
from tests.conftest import ROOT, fields_read, load_config


def test_every_field_is_read(toy_config, stores, one_device, tmp_path, monkeypatch):
    """A run looks at each field, apart from writing them all to config.json."""
    runs = {"train": "0[012]", "val": "03", "test": "04"}
    probes = {f"probe__{k}": f"{stores['train']}?subject={v}" for k, v in runs.items()}
    config = toy_config(
        total_steps=8, probe__every=4, data__cache_dir=str(tmp_path / "cache"), **probes
    )
    dump, dumping = loop.config_dict, []

    def dump_unseen(config):
        dumping.append(True)
        try:
            return dump(config)
        finally:
            dumping.clear()

    monkeypatch.setattr(loop, "config_dict", dump_unseen)
    monkeypatch.setattr("fmrifm.trainer.program.check_numbers", lambda *_: None)

    def make_probe(settings, workdir, files):
        scores = training_probe(get_probe_config, settings, workdir, files)

        def saved_before(files):
            assert (workdir / "checkpoints" / str(files.step) / "state").is_dir()
            return scores(files)

        return saved_before

    with fields_read(config, unless=dumping) as read:
        assert loop.train(config, tmp_path, make_probe=make_probe) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scored = [line["step"] for line in lines if "probe/avg_patch_logistic/test/accuracy" in line]
    assert scored == [4, 8]
    fields = set(flatten(dump(config)))
    assert len(fields) > 50 and fields - read == set()


def check_pretrain(config):
    check_config(config)
    Augmentation(**config.augment)
    make_mesh(config.mesh)
    options_from_config(config.model, flat_map(), config.data.num_frames)


def check_probes(resolve, config):
    config.model = "model"
    resolve(config)


@pytest.mark.parametrize(
    "get, check",
    [
        (load_config, check_pretrain),
        (get_probe_config, functools.partial(check_probes, resolve_probe)),
        (get_cohort_config, functools.partial(check_probes, resolve_cohort)),
    ],
)
def test_every_number_has_a_range(get, check):
    check(get())
    for name, value in flatten(loop.config_dict(get())).items():
        section, _, field = name.rpartition(".")
        config = get()
        part = config[section] if section else config
        kind = part.get_type(field)
        if kind is tuple and (name == "bins" or value and not isinstance(value[0], str)):
            part[field] = (np.nan,)
        elif kind in (int, float):
            part[field] = -7 if kind is int else np.nan
        else:
            continue
        with pytest.raises(InputError, match=field):
            check(config)
        if field == "seed":
            part[field] = 2**32
            with pytest.raises(InputError, match="seed=4294967296"):
                check(config)


def test_every_model_option_is_used():
    """By the model's code outside options.py, be it through a property."""
    sources = (ROOT / "fmrifm" / "model").glob("*.py")
    text = "".join(path.read_text() for path in sources if path.name != "options.py")
    for _ in range(3):  # properties of properties
        for name, member in vars(ModelOptions).items():
            if isinstance(member, property) and re.search(rf"\.{name}\b", text):
                text += inspect.getsource(member.fget)
    fields = ModelOptions.__dataclass_fields__
    assert [name for name in fields if not re.search(rf"\.{name}\b", text)] == []


@pytest.mark.parametrize(
    "name, get",
    [("pretrain", load_config), ("probe", get_probe_config), ("cohort", get_cohort_config)],
)
def test_every_field_is_explained(name, get):
    """Where it is first set; arguments of get_config may set it again."""
    explained = set()
    for line in (ROOT / "configs" / f"{name}.py").read_text().splitlines():
        for field in re.findall(r"(config\.[\w.]+) = ", line.partition("#")[0]):
            if "ConfigDict()" not in line and field not in explained:
                assert re.search(r"  # \w", line), line
                explained.add(field)
    assert explained == {f"config.{field}" for field in flatten(loop.config_dict(get()))}


@pytest.mark.parametrize(
    "argument, size",
    [("", "base"), ("vit_s", "small"), ("vit_b", "base"), ("vit_l", "large"), ("vit_h", "huge")]
    + [(name, name) for name in SIZES if name.startswith("d")],
)
def test_arguments(argument, size):
    config = load_config(arg=argument)
    assert config.model.size == size and config.total_steps == 625_000
    options = options_from_config(config.model, flat_map(), config.data.num_frames)
    assert (options.embed_dim, options.depth, options.num_heads) == SIZES[size][:3]


def test_brainmarks_as_an_argument():
    """Its multipliers are written with two digits."""
    config = get_probe_config("task21,brainmarks")
    some = config.grid.lr_multipliers
    assert len(some) == 49 and some[:5] == (0.02, 0.023, 0.028, 0.033, 0.038)
    assert some[23:26] == (0.85, 1, 1.2) and some[-3:] == (36, 43, 50)
    assert config.logistic.protocol == "brainmarks" and config.target == "event:trial_type;task21"
    assert get_probe_config("age,brainmarks").random_splits == 0
    assert get_probe_config("task21").logistic.protocol == "fmrifm"
    with pytest.raises(InputError, match="'x' behind the task"):
        get_probe_config("task21,x")


def test_runlocal_is_small():
    config = load_config(arg="vit_b,runlocal")
    assert config.total_steps == 20 and config.model.size == "d3"
    config = load_config(arg="vit_b")
    config.total_steps = 1000
    assert config.optim.warmup_steps == 50  # follows


def flat_map() -> Geometry:
    return cut_geometry(Geometry("flat", np.ones((224, 560), bool), (16, 16)), 16)


def test_published_size():
    config = load_config(arg="vit_b")
    shapes = param_shapes(options_from_config(config.model, flat_map(), config.data.num_frames))
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    assert round(count["encoder"] / 1e6, 1) == 86.2
    assert round(sum(count.values()) / 1e6, 1) == 99.7
