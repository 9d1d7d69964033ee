"""Keeps compiled programs on disk, so that the second start of a command compiles nothing.

They lie in $FMRIFM_CACHE/compiled or ~/.cache/fmrifm/compiled, a folder for each kind of machine
and version of JAX. Several processes may use them at once: JAX compiles again what it cannot read.
"""

import contextlib
import hashlib
import os
import platform
import time
from pathlib import Path

import jax

MOST_BYTES = 4 * 2**30  # the oldest programs are removed beyond this
_OLD = 3600.0  # seconds; a younger file may be one that another process is writing
_SHORTEST = 0.5  # seconds of compilation; what takes less is not kept


def cache_folder() -> Path:
    """The folder for everything that commands keep for their next start."""
    return Path(os.environ.get("FMRIFM_CACHE") or Path.home() / ".cache" / "fmrifm")


def use_compile_cache() -> None:
    """Makes JAX keep compiled programs, unless a place for them is configured already."""
    if jax.config.jax_compilation_cache_dir:
        return
    folder = cache_folder() / "compiled" / f"{_machine()}-jax-{jax.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: programs are compiled at every start
        return
    remove_oldest(folder.parent, MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def remove_oldest(folder: Path, most_bytes: int) -> None:
    """Removes the oldest files below a folder until the rest has at most so many bytes."""
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            state = path.stat()
            if path.is_file():
                files.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in files)
    for changed, size, path in sorted(files):
        if total <= most_bytes or changed > time.time() - _OLD:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size


def _machine() -> str:
    """Names the processor by its instructions: programs for others may not run on it."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
