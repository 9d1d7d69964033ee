"""What a run was: provenance.json, an entry for each start, enough to repeat it.

An entry has the command and where it was given, the git commit and whether files differed from it
(then uncommitted.diff has them), versions of packages, checksums of stores, devices, and sizes.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import fmrifm
from data_tools.files import write_bytes
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import Source
from fmrifm.model.mae import param_shapes
from fmrifm.model.options import ModelOptions, options_from_config
from fmrifm.trainer.data import Data
from fmrifm.trainer.flops import clip_flops

FILE, DIFF = "provenance.json", "uncommitted.diff"
_PACKAGES = (
    *("fmrifm", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scipy", "scikit-learn", "nibabel", "nilearn", "ml-collections"),
)
_SOURCE = Path(fmrifm.__file__).resolve().parents[1]


def record_start(
    workdir: Path,
    config: Mapping[str, Any],
    stores: Mapping[str, str],
    sizes: Mapping[str, Any] | None = None,
) -> None:
    """Adds this start to the provenance.json of a workdir; only one process of a run calls it.

    Args:
      config: as plain values.
      stores: path -> checksum, see `digest`.
      sizes: see `measure`.
    """
    git, diff = _git()
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": _command(),
        "directory": os.getcwd(),
        "git": git,
        "packages": _versions(),
        "python": platform.python_version(),
        "devices": {
            "kind": jax.devices()[0].device_kind,
            "platform": jax.devices()[0].platform,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "stores": dict(stores),
        "sizes": dict(sizes or {}),
        "config": dict(config),
    }
    starts = [*read_starts(workdir), entry]
    if diff:
        write_bytes(workdir / DIFF, diff)
    text = json.dumps({"version": 1, "starts": starts}, indent=1)
    write_bytes(workdir / FILE, text.encode())


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """The entries of all starts; none where there is no such file, or a damaged one."""
    try:
        return json.loads((workdir / FILE).read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def measure(config: ConfigDict, data: Data) -> dict[str, Any]:
    """How large the model and the data of a pretraining run are.

    Returns:
      params of the model, encoder_params of its encoder; flops_per_clip of a training step;
      train: frames (distinct), runs, subjects, datasets; eval: {name: datasets}.
    """
    options = options_from_config(
        config.model, cut_geometry(data.geometry, config.model.patch), config.data.num_frames
    )
    patches = cut_geometry(data.geometry, config.model.patch).n_patches
    return {
        **_model_size(options),
        "flops_per_clip": clip_flops(options, patches),
        "train": _data_size(data.train),
        "eval": {name: _data_size(sources)["datasets"] for name, sources in data.evals.items()},
    }


def _model_size(options: ModelOptions) -> dict[str, int]:
    shapes = {k: v for k, v in param_shapes(options).items() if k != "target_norm"}
    count = {k: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(v)) for k, v in shapes.items()}
    return {"params": sum(count.values()), "encoder_params": count["encoder"]}


def _data_size(sources: list[Source]) -> dict[str, Any]:
    runs = {
        (str(source.store.path), int(run)): source.store.runs[run]
        for source in sources
        for run in source.runs
    }.values()
    return {
        "frames": sum(int(run["n_frames"]) for run in runs),
        "runs": len(runs),
        "subjects": len({(run["dataset"], run["subject"]) for run in runs}),
        "datasets": sorted({str(run["dataset"]) for run in runs}),
    }


def _command() -> list[str] | None:
    """`-m MODULE` and the flags of the process; None where it is no command of ours."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or not spec.name.startswith(("fmrifm.", "data_tools.")):
        return None
    return ["-m", spec.name, *sys.argv[1:]]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git() -> tuple[dict[str, Any] | None, bytes]:
    """The commit of the source, whether it was changed since, and the changes."""
    top = _ask_git("rev-parse", "--show-toplevel").decode().strip()
    if not top or Path(top).resolve() != _SOURCE:  # an installed package, or no git
        return None, b""
    commit = _ask_git("rev-parse", "HEAD").decode().strip()
    diff = _ask_git("diff", "HEAD", "--binary")
    return {"commit": commit, "dirty": bool(diff)}, diff


def _ask_git(*arguments: str) -> bytes:
    try:
        command = ["git", "-C", str(_SOURCE), *arguments]
        return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return b""
