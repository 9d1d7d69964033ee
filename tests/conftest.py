"""Eight CPU devices in one process, toy stores, and the real config made small."""

import contextlib
import functools
import gc
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.ndimage import gaussian_filter

from data_tools.spaces.geometry import Geometry
from data_tools.store.writer import StoreWriter

ROOT = Path(__file__).parents[1]

# Else every command that a test starts would compile our modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Most programs run for moments here, so that what counts is how fast they compile.
FAST_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", FAST_COMPILE)
os.environ["JAX_PLATFORMS"] = "cpu"  # commands that tests start do not look for a TPU either
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tests that build the same program compile it once, those of the other process included.
if "FMRIFM_TESTS_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory()
    os.environ["FMRIFM_TESTS_CACHE"] = _cache.name
os.environ["FMRIFM_CACHE"] = os.environ["FMRIFM_TESTS_CACHE"]
jax.config.update("jax_compilation_cache_dir", os.environ["FMRIFM_TESTS_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# XLA reads its flags once. A test that changes the environment must not be the first to use it.
jax.devices()

# Traced programs are millions of objects, which the collector would go through again and again.
gc.freeze()
gc.set_threshold(20_000, 25, 10)

# Files whose tests take minutes begin first, so that the two processes end together.
LONG = (
    *("test_quickstart", "test_finetune", "test_loop", "test_processes", "test_recipes"),
    *("test_sweep", "test_step", "test_units", "test_truth", "test_run"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def golden():
    """Opens a golden case of the reference by name."""

    def load(name):
        with np.load(ROOT / "tests" / "golden" / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load


def toy_geometry(cut_corner: bool = False) -> Geometry:
    """Two "hemispheres" on a 32 x 64 frame in patches of 8, with ragged edges."""
    mask = np.zeros((32, 64), bool)
    mask[4:28, 2:30] = mask[4:28, 34:62] = True
    if cut_corner:
        mask[:16, :16] = False
    return Geometry("toy", mask, (8, 8), (0.0, 64.0, 0.0, 32.0), 1.0)


def write_toy_store(path: Path, seed: int, subjects: int = 3, frames: int = 60, **kwargs) -> Path:
    """Smooth noise: subjects with one rest run each and events of two types."""
    geometry = kwargs.get("geometry", toy_geometry())
    rng = np.random.default_rng(seed)
    writer = StoreWriter(
        path, geometry, tr=1.0, preprocessing={"chain": "vertex"}, provenance={"made": "toy"}
    )
    with writer:
        for subject in range(subjects):
            noise = rng.normal(size=(frames, *geometry.mask.shape))
            series = gaussian_filter(noise, (2, 3, 3)) * geometry.mask
            series /= series.std() + 1e-9
            events = [
                {"onset": 20.0 * i + 1.5, "duration": 10.0, "trial_type": "ab"[i % 2]}
                for i in range(frames // 20)
            ]
            writer.add(
                f"sub-{subject:02d}_run-1",
                geometry.to_patches(series).astype(np.float16),
                dataset="toy",
                subject=f"{subject:02d}",
                session="1",
                task="REST1" if subject % 2 else "REST2",
                tr=1.0,
                events=events,
                missing=kwargs.get("missing"),
            )
        writer.finish()
    return path


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> dict[str, Path]:
    """Toy stores: train, eval, and other (another mask on the same grid)."""
    root = tmp_path_factory.mktemp("stores")
    return {
        "train": write_toy_store(root / "train", seed=1, subjects=5),
        "eval": write_toy_store(root / "eval", seed=2),
        "other": write_toy_store(root / "other", seed=3, geometry=toy_geometry(cut_corner=True)),
    }


def load_config(name: str = "pretrain", arg: str = ""):
    """A config file's ConfigDict, locked as on the command line."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    config.lock()
    return config


def make_toy_config(stores, **overrides):
    """The real pretraining config, shrunk; keyword arguments override fields, `a__b` is a.b."""
    config = load_config(arg="d3,runlocal")
    config.batch_size = 8
    config.total_steps = 6
    config.log_every = config.eval_every = config.checkpoint_every = 2
    config.figures, config.eval_linear = 0, False
    config.data.train = str(stores["train"])
    config.data.eval = f"held={stores['eval']}"
    config.model.update(
        embed_dim=64, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=4, patch=8, t_patch=4, mask_ratio=0.75, head_init_scale=1.0,
    )  # fmt: skip
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in overrides.items()}
    )
    return config


@pytest.fixture(scope="module", autouse=True)
def free_memory():
    """Drops the compiled programs of a file: they grow to gigabytes, which slows collections."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def one_device():
    """Runs in this process take one of its eight devices: their programs compile faster."""
    from fmrifm.trainer import mesh
    from fmrifm.trainer import program as experiment

    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(experiment, "make_mesh", lambda sizes, _: mesh.make_mesh(sizes, first))
        yield


@pytest.fixture(scope="session")
def toy_config(stores):
    return functools.partial(make_toy_config, stores)


@contextlib.contextmanager
def fields_read(config: ConfigDict, unless: Sequence = ()) -> Iterator[set[str]]:
    """Collects the fields of a config that are read inside, but for while `unless` holds something.

    A field of a sub-config is called "data.train".
    """
    places = {id(config): ""} | {
        id(value): f"{name}." for name, value in config.items() if isinstance(value, ConfigDict)
    }
    read, get = set(), ConfigDict.__getitem__

    def record(self, name):
        if not unless:
            read.add(f"{places.get(id(self), '?')}{name}")
        return get(self, name)

    ConfigDict.__getitem__ = record
    try:
        yield read
    finally:
        ConfigDict.__getitem__ = get
