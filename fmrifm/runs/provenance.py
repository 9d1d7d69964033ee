"""What a run was: provenance.json, an entry for each start, enough to repeat it.

An entry has the command and where it was given, the git commit and whether files differed from it
(then uncommitted.diff has them), versions of packages, checksums of stores, devices, and sizes.
Of the environment it has nothing: variables may be secrets.
"""

import contextlib
import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from data_tools.files.atomic import write_bytes
from data_tools.safe_text import without_secrets_in

if TYPE_CHECKING:  # tables of runs read these files without waiting for JAX
    from fmrifm.input.data import Data
    from fmrifm.input.sources import Source

FILE, DIFF = "provenance.json", "uncommitted.diff"
_PACKAGES = (
    *("fmrifm", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scipy", "scikit-learn", "nibabel", "nilearn", "ml-collections"),
)
_SOURCE = Path(__file__).resolve().parents[2]
_LARGEST_DIFF = 10 * 2**20  # bytes
_GIT_TIMEOUT = 60  # seconds


def record_start(
    workdir: Path,
    config: Mapping[str, Any],
    stores: Mapping[str, str],
    sizes: Mapping[str, Any] | None = None,
) -> None:
    """Adds this start to the provenance.json of a workdir; only one process of a run calls it.

    Args:
      workdir: made if it is not there.
      config: as plain values.
      stores: path -> checksum, see `store_digests`.
      sizes: see `measure`.
    """
    import jax

    workdir.mkdir(parents=True, exist_ok=True)
    starts = read_starts(workdir)
    if not starts and (workdir / FILE).exists():
        os.replace(workdir / FILE, workdir / f"{FILE}.damaged")
        print(f"{workdir / FILE} is damaged: it is kept as {FILE}.damaged.")
    git, diff = source_state()
    if git is not None:
        git = {**git, "diff": _keep_diff(workdir, starts, diff)}
    device = jax.devices()[0]
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": _command(),
        "directory": os.getcwd(),
        "git": git,
        "packages": package_versions(),
        "python": platform.python_version(),
        "devices": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "stores": dict(stores),
        "sizes": dict(sizes or {}),
        "config": dict(config),
    }
    # The flags of a command may be URLs with passwords in them.
    text = json.dumps({"version": 1, "starts": [*starts, without_secrets_in(entry)]}, indent=1)
    write_bytes(workdir / FILE, text.encode())


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """The entries of all starts; none where there is no such file, or a damaged one."""
    try:
        starts = json.loads((workdir / FILE).read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    good = isinstance(starts, list) and all(isinstance(entry, dict) for entry in starts)
    return starts if good else []


def measure(config: ConfigDict, data: "Data") -> dict[str, Any]:
    """How large the model and the data of a pretraining run are.

    Returns:
      params of the model, encoder_params of its encoder; flops_per_clip of a training step;
      train: frames (distinct), runs, subjects, datasets; eval: {name: datasets}.
    """
    import jax

    from fmrifm.model.flops import count_flops
    from fmrifm.model.mae import param_shapes
    from fmrifm.model.options import options_from_config

    options = options_from_config(config.model, data.cut, config.data.num_frames)
    shapes = {k: v for k, v in param_shapes(options).items() if k != "target_norm"}
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    return {
        "params": sum(count.values()),
        "encoder_params": count["encoder"],
        "flops_per_clip": count_flops(options, data.cut.n_patches).total,
        "train": _data_size(data.train),
        "eval": {name: _data_size(sources)["datasets"] for name, sources in data.evals.items()},
    }


@functools.cache
def package_versions() -> dict[str, str]:
    """Package -> version, of those installed that results may depend on."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def source_state() -> tuple[dict[str, Any] | None, bytes]:
    """The git commit of the source, and how files under its control differ from it.

    Asked once: what a process has imported stays as it is.

    Returns:
      commit, dirty and diff_bytes, and the diff; None and nothing of an installed package.
    """
    if not (_SOURCE / ".git").exists():
        return None, b""
    commit = _ask_git("rev-parse", "HEAD")
    # Such that `git apply` reads it, whatever the user's git is set to.
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    diff = _ask_git("diff", "HEAD", "--binary", *plain)
    if commit is None or diff is None:
        return None, b""
    return {"commit": commit.decode().strip(), "dirty": bool(diff), "diff_bytes": len(diff)}, diff


def _ask_git(*arguments: str) -> bytes | None:
    # Hooks of git run with variables that name another repository; and nobody waits for our locks.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(_SOURCE), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            timeout=_GIT_TIMEOUT,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _keep_diff(workdir: Path, starts: list[dict[str, Any]], diff: bytes) -> str | None:
    """Writes a diff unless an earlier start has left the same; returns the name of its file."""
    if not 0 < len(diff) <= _LARGEST_DIFF:
        return None
    kept = {start["git"]["diff"] for start in starts if start["git"]} - {None}
    for name in sorted(kept):
        if (workdir / name).is_file() and (workdir / name).read_bytes() == diff:
            return name
    name = DIFF.replace(".", f"_{len(starts) + 1}.") if kept else DIFF
    write_bytes(workdir / name, diff)
    return name


def _command() -> list[str] | None:
    """`-m MODULE` and the flags of the process; None where it is no command of ours."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or not spec.name.startswith(("fmrifm.", "data_tools.")):
        return None
    if multiprocessing.parent_process() is not None:  # looks like its parent, but does other work
        return None
    return ["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _data_size(sources: list["Source"]) -> dict[str, Any]:
    # By their contents: two sources may name one run, and two paths one store.
    runs = {(line["key"], line["crc32"]): line for source in sources for line in source.lines}
    return {
        "frames": sum(int(run["n_frames"]) for run in runs.values()),
        "runs": len(runs),
        "subjects": len({(run["dataset"], run["subject"]) for run in runs.values()}),
        "datasets": sorted({str(run["dataset"]) for run in runs.values()}),
    }
