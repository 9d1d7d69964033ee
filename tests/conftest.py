"""Eight CPU devices in one process, and warnings that catch silent broadcasting."""

import os

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "warn")
os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture
def golden(request):
    """Opens a golden case of the reference by name."""
    import numpy as np

    def load(name):
        path = request.config.rootpath / "tests" / "golden" / f"{name}.npz"
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    return load
