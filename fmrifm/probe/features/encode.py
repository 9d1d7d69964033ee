"""Frozen features: what the encoder says of clips with every cortical token visible.

They are computed once and kept as memory-mapped arrays, a directory for each model and list of
clips, so that tokens of many clips need not fit in memory and the next probe finds them made. A
killed job continues; several processes each encode their share into the same files. Letters: B
clips of a batch, C clips in all, M tokens, V values of a token, D width, R registers.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from fmrifm.input.data import scale_of
from fmrifm.input.preprocess import Tokens
from fmrifm.input.sources import Source, union_geometry
from fmrifm.model.files import ModelFiles
from fmrifm.probe.features.clip_encoder import ClipBatches, ClipEncoder, run_batches
from fmrifm.probe.features.feature_cache import (
    Rows,
    count_rows,
    find_missing,
    fits,
    note_rows,
    publish_array,
)
from fmrifm.probe.samples.samples import Samples
from fmrifm.runs.hold import wait_for
from fmrifm.trainer.mesh import make_mesh

BATCH_PER_DEVICE = 16
# What is kept of tokens is half as precise: there are many.
DTYPES = {
    "cls": np.float32,  # (C, D)
    "avg_patch": np.float32,  # (C, D), mean over the tokens with data
    "reg": np.float32,  # (C, R, D)
    "patch": np.float16,  # (C, M, D), zero where there are no data
    "input": np.float32,  # (C, M), no model's work: the mean of each token's values
    "tokens": np.float16,  # (C, M, V), no model's work: its values
    "has_data": np.bool_,  # (C, M), which tokens have any
}
KINDS = tuple(DTYPES)
_FLUSH_EVERY = 64  # batches


def encode(
    files: ModelFiles,
    sources: list[Source],
    samples: Samples,
    kinds: Collection[str],
    cache: Path,
    name: str = "",
    geometry: Geometry | None = None,
    whole: Samples | None = None,
) -> dict[str, np.ndarray]:
    """Features of the clips of samples, in their order.

    Args:
      kinds: which arrays are wanted, of KINDS; those that the model does not have are left out.
      cache: directory for the arrays of all models and lists of clips.
      geometry: whose patches the tokens are; that of the sources unless given.
      whole: samples that have all these clips, and are what is encoded: so labels that come, go or
        change leave the features of a store as they are.

    Returns:
      Arrays of `DTYPES`, memory-mapped, read only; those of a part of `whole` in memory.

    Raises:
      InputError: the stores lie on another grid than the model, or features are not finite.
    """
    if whole is not None:
        arrays = encode(files, sources, whole, kinds, cache, name, geometry)
        place = {clip: c for c, clip in enumerate(_names(whole))}
        index_C = np.array([place[clip] for clip in _names(samples)])
        if np.array_equal(index_C, np.arange(len(place))):
            return arrays
        return {kind: array[index_C] for kind, array in arrays.items()}
    options = files.options
    lacks = {"cls": not options.class_token, "reg": not options.reg_tokens}
    wanted = [kind for kind in KINDS if kind in kinds and not lacks.get(kind)]
    geometry = geometry or union_geometry(sources)
    directory = Path(cache) / fingerprint(files, sources, samples, geometry)
    missing = find_missing(directory, wanted)
    if missing:
        program = _Program(ClipEncoder(files, sources, geometry), samples, missing)
        _fill(directory, missing, program, name)
    return {kind: np.load(directory / f"{kind}.npy", mmap_mode="r") for kind in wanted}


def are_within(whole: Samples, samples: Samples) -> bool:
    """Whether all clips of samples are among those of `whole`, and none is played backwards."""
    return samples.reversed_C is None and set(_names(samples)) <= set(_names(whole))


def _names(samples: Samples) -> list[tuple[int, int, int]]:
    """Source, run and start of each clip."""
    clips = samples.clips
    columns = (clips.source.tolist(), clips.run.tolist(), clips.start.tolist())
    return list(zip(*columns, strict=True))


def keep_blocks(files: ModelFiles, depth: int) -> ModelFiles:
    """The model with the first blocks of its encoder only, then its final norm."""
    encoder = dict(files.params["encoder"])
    encoder["blocks"] = jax.tree.map(lambda x: x[:depth], encoder["blocks"])
    if not depth:
        del encoder["blocks"]
    options = dataclasses.replace(files.options, depth=depth)
    return dataclasses.replace(files, options=options, params={**files.params, "encoder": encoder})


def fingerprint(
    files: ModelFiles, sources: list[Source], samples: Samples, geometry: Geometry | None = None
) -> str:
    """Names all that features depend on: weights, options, runs by checksum, and clips."""
    sha = hashlib.sha256()
    told = {"options": dataclasses.asdict(files.options), "preprocessing": files.preprocessing}
    sha.update(json.dumps(told, sort_keys=True, default=str).encode())
    sha.update(files.geometry.sha256().encode())
    for part in files.encoding_params.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            sha.update(jax.tree_util.keystr(path).encode())
            sha.update(np.ascontiguousarray(leaf).data)
    clips = samples.clips
    for stored in (geometry or union_geometry(sources), *(x.store.geometry for x in sources)):
        sha.update(stored.sha256().encode())
    for s, r in sorted({*zip(clips.source.tolist(), clips.run.tolist(), strict=True)}):
        run = sources[s].store.runs[r]
        sha.update(f"{s}/{r}/{run['key']}/{run['crc32']}/{run.get('missing')}".encode())
        if files.preprocessing.get("no_coord_normalize"):
            sha.update(f"/{scale_of(sources[s].store, r)}".encode())
    for array in (clips.source, clips.run, clips.start, samples.n_frames_C):
        sha.update(np.ascontiguousarray(array, np.int64).data)
    sha.update(b"" if samples.reversed_C is None else np.packbits(samples.reversed_C).data)
    return sha.hexdigest()[:24]


class _Program:
    """Makes the wanted arrays of the clips of samples."""

    def __init__(self, encoder: ClipEncoder, samples: Samples, kinds: list[str]):
        self._encoder, self._kinds, self.n_clips = encoder, kinds, len(samples.clips)
        self.mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.local_devices())
        self.batch_size = BATCH_PER_DEVICE * self.mesh.size
        self.batches = functools.partial(ClipBatches, encoder, samples, self.batch_size)
        self.step = functools.partial(jax.jit(self._encode), encoder.files.params)

    def _encode(self, params: dict, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        tokenizer, options = self._encoder.tokenizer, self._encoder.files.options
        values, valid = tokenizer(batch)
        # The frame of each value of each token.
        slot_M = np.arange(values.shape[1]) // tokenizer.geometry.n_patches
        frame_V = np.arange(options.token_dim) // tokenizer.patch_dim
        frame_MxV = slot_M[:, None] * options.t_patch + frame_V
        valid &= frame_MxV < batch["length"][:, None, None]
        values = values * valid
        has_data = valid.any(-1)
        out = {"input": masked_mean(values, valid, 2), "tokens": values, "has_data": has_data}
        if {"cls", "avg_patch", "reg", "patch"} & {*self._kinds}:
            cls, reg, patch = self._encoder.encode(params, Tokens(values, valid))
            patch = patch * has_data[:, :, None]
            out |= {"patch": patch, "avg_patch": masked_mean(patch, has_data[:, :, None], 1)}
            out |= {} if cls is None else {"cls": cls[:, 0]}
            out |= {} if reg is None else {"reg": reg}
        return {kind: out[kind].astype(DTYPES[kind]) for kind in self._kinds}


def _fill(directory: Path, kinds: list[str], program: _Program, name: str) -> None:
    """Makes arrays, unless another job that has the same cache makes them meanwhile."""
    first = jax.process_index() == 0
    with wait_for(directory) if first else contextlib.nullcontext():
        _sync("features locked")
        kinds = find_missing(directory, kinds)
        if kinds:
            _fill_alone(directory, kinds, program, name)


def _fill_alone(directory: Path, kinds: list[str], program: _Program, name: str) -> None:
    """Writes arrays, this process its share of the rows, and publishes them when all are done."""
    n_hosts, host = jax.process_count(), jax.process_index()
    half = directory / f"partial-{'-'.join(kinds)}-{n_hosts}"
    if host == 0:
        _make_room(half, kinds, program)
    _sync("features made")
    bounds = [program.n_clips * h // n_hosts for h in (host, host + 1)]
    mark = half / f"rows-{host}"
    with contextlib.ExitStack() as stack:
        files = {kind: stack.enter_context(Rows(half / f"{kind}.npy")) for kind in kinds}
        done = count_rows(mark, bounds[0], files)
        bar = tqdm(
            total=bounds[1] - bounds[0], initial=done, unit="clip", desc=f"encode {name}".strip()
        )
        stack.enter_context(bar)
        first = bounds[0] + done
        for i, features in enumerate(_encoded(program, (first, bounds[1])), 1):
            rows = slice(first, min(first + program.batch_size, bounds[1]))
            for kind, file in files.items():
                values = np.asarray(features[kind])[: rows.stop - rows.start]
                if not np.isfinite(values).all():
                    shutil.rmtree(half)
                    raise InputError(
                        f"{kind} of clips {rows.start} to {rows.stop - 1} of {name or 'a split'} "
                        "is NaN or infinite: look at the loss of the model, and at the stores with "
                        "data_tools.inspect --verify."
                    )
                file.write(first, values)
            bar.update(rows.stop - rows.start)
            first = rows.stop
            if i % _FLUSH_EVERY == 0:
                note_rows(mark, first - bounds[0], files)
        for file in files.values():
            file.sync()
    _sync("features written")
    if host == 0:
        for kind in kinds:
            publish_array(half / f"{kind}.npy", directory / f"{kind}.npy")
        for left in directory.glob("partial-*"):  # also what a killed job left of the same arrays
            if all((directory / f"{kind}.npy").is_file() for kind in left.name.split("-")[1:-1]):
                shutil.rmtree(left)
    _sync("features published")


def _make_room(half: Path, kinds: list[str], program: _Program) -> None:
    """Empty arrays to write to, unless a killed job has left some."""
    batch = jax.eval_shape(program.step, program.batches(0, 1)[0])
    shapes = {
        kind: jax.ShapeDtypeStruct((program.n_clips, *batch[kind].shape[1:]), DTYPES[kind])
        for kind in kinds
    }
    if all(fits(half / f"{kind}.npy", shape) for kind, shape in shapes.items()):
        return
    shutil.rmtree(half, ignore_errors=True)
    new = half.with_name(f"{half.name}.new")  # appears with all arrays
    new.mkdir(parents=True, exist_ok=True)
    for kind, like in shapes.items():
        np.lib.format.open_memmap(new / f"{kind}.npy", "w+", like.dtype, like.shape).flush()
    os.replace(new, half)


def _encoded(program: _Program, rows: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    if rows[0] < rows[1]:
        yield from run_batches(program.step, program.batches(*rows), program.mesh)


def _sync(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def masked_mean(x: jax.Array, keep: jax.Array, axis: int) -> jax.Array:
    """Mean over an axis of what is kept, zero where nothing is."""
    total = jnp.sum(x * keep, axis)
    return total / jnp.maximum(jnp.sum(keep, axis, dtype=jnp.float32), 1)
