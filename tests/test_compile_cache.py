"""Compiled programs are kept for the next start, in bounds."""

import os
import subprocess
import sys
import time

from fmrifm.compile_cache import remove_oldest
from tests.conftest import ROOT

START = """
import time
import jax, jax.numpy as jnp
from fmrifm import compile_cache
compile_cache._SHORTEST = 0.0
compile_cache.use_compile_cache()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8)))))
print(sum("cache_hits" in name for name in hits), sum("cache_misses" in name for name in hits))
"""


def start(folder, **environment) -> tuple[str, int, int]:
    """The result of a program, and how many programs were found in the cache, and how many not."""
    without = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True,
        env=without | {"FMRIFM_CACHE": str(folder)} | environment,
    )  # fmt: skip
    result, counts = done.stdout.splitlines()
    return result, *map(int, counts.split())


def test_a_second_start_compiles_nothing(tmp_path):
    first, hits, misses = start(tmp_path)
    assert hits == 0 and misses > 0
    assert start(tmp_path) == (first, misses, 0)
    kept = [path for path in tmp_path.rglob("*-cache")]
    for path in kept:
        path.write_bytes(path.read_bytes()[:40])  # cut off by a full disk
    assert start(tmp_path)[0] == first


def test_a_cache_of_ones_own_and_a_home_without_room(tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    start(tmp_path / "ours", **own, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert not (tmp_path / "ours").exists() and list((tmp_path / "own").iterdir())
    (tmp_path / "file").write_text("")
    assert start(tmp_path / "file")[1] == 0  # no folder can be made there


def test_the_oldest_go_first(tmp_path):
    now = time.time()
    for age in range(5):
        path = tmp_path / "deep" / f"{age}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (now - 7200 * age, now - 7200 * age))
    remove_oldest(tmp_path, 250)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["0-cache", "1-cache"]
    remove_oldest(tmp_path, 0)  # a young one may be in the making
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["0-cache"]
