"""Frozen features: what the encoder says of a clip with every cortical token visible.

Letters: B clips of a batch, C clips in all, D width.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fmrifm.input.clips import Clips
from fmrifm.input.pipeline import ClipReader, EvalBatches, host_batches, on_devices
from fmrifm.input.preprocess import Tokenizer
from fmrifm.input.sources import Source, check_grid, union_geometry
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder
from fmrifm.model.objective import Objective, Pixels
from fmrifm.trainer.mesh import batch_sharding, make_mesh, to_devices

BATCH_PER_DEVICE = 16
KINDS = ("cls", "avg_patch", "patch", "input")


def clip_features(
    files: ModelFiles, sources: list[Source], clips: Clips, kinds: Collection[str] = KINDS
) -> dict[str, np.ndarray]:
    """Features of clips, in their order.

    Args:
      files: the model.
      sources: the stores of the clips.
      clips: where they lie.
      kinds: which features are wanted; all of a model's tokens may not fit in memory.

    Returns:
      float32 arrays: `cls` (C, D), if the model has a class token; `avg_patch` (C, D), the mean
      over the tokens with data; `patch` (C, tokens * D), all of them side by side; and `input`
      (C, tokens), no model's work: the mean of each token's values, to compare with.

    Raises:
      InputError: the stores lie on another grid than the model.
    """
    geometry = union_geometry(sources)
    options = files.options
    tokenizer = Tokenizer(
        geometry,
        options.num_frames,
        options.t_patch,
        files.geometry.patch_shape,
        files.preprocessing["normalize"],
    )
    check_grid(tokenizer.geometry, files.geometry, "The data", "the model")
    objective = Objective(MaskedAutoencoder(options), tokenizer.geometry)
    every_M = jnp.arange(len(objective.places))

    def encode(params, batch):
        values, valid = tokenizer(batch)
        index_BxM = jnp.broadcast_to(every_M, values.shape[:2])
        seen = objective.see(Pixels(values, valid, valid, valid), index_BxM)
        cls, _, patches = objective.model.apply({"params": params}, seen, method="encode")
        has_data_BxMx1 = valid.any(-1, keepdims=True)
        out = {
            "patch": (patches * has_data_BxMx1).reshape(len(patches), -1),
            "avg_patch": masked_mean(patches, has_data_BxMx1, axis=1),
            "input": masked_mean(values, valid, axis=2),
        }
        out = out if cls is None else {**out, "cls": cls[:, 0]}
        return {name: value for name, value in out.items() if name in kinds}

    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.local_devices())
    sharding = batch_sharding(mesh)
    batch_size = BATCH_PER_DEVICE * mesh.size
    scaled = files.preprocessing.get("no_coord_normalize", False)
    reader = ClipReader(sources, geometry, options.num_frames, scaled)
    batches = EvalBatches(reader, sources, clips, batch_size, (0, batch_size))
    host = host_batches(batches, 0, threads=2, workers=0)
    step = jax.jit(encode)
    parts = []
    with jax.set_mesh(mesh), tqdm(total=len(clips), unit="clip", desc="encode") as progress:
        for batch in on_devices(host, lambda batch: to_devices(batch, sharding)):
            parts.append(jax.device_get(step(files.params, batch)))
            progress.update(min(batch_size, len(clips) - progress.n))
    host.close()
    return {name: np.concatenate([p[name] for p in parts])[: len(clips)] for name in parts[0]}


def masked_mean(x: jax.Array, keep: jax.Array, axis: int) -> jax.Array:
    """Mean over an axis of what is kept, zero where nothing is."""
    total = jnp.sum(x * keep, axis)
    return total / jnp.maximum(jnp.sum(keep, axis, dtype=jnp.float32), 1)
