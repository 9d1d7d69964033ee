"""Frozen features: what the encoder says of a clip with every cortical token visible.

Letters: B clips of a batch, C clips in all, D width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fmrifm.input.clips import Clips
from fmrifm.input.pipeline import ClipReader, EvalBatches, host_batches, on_devices
from fmrifm.input.preprocess import Tokenizer, Tokens
from fmrifm.input.sources import Source, check_grid, union_geometry
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder
from fmrifm.trainer.mesh import batch_sharding, make_mesh, to_devices

BATCH_PER_DEVICE = 16


def clip_features(files: ModelFiles, sources: list[Source], clips: Clips) -> dict[str, np.ndarray]:
    """Features of clips, in their order.

    Returns:
      float32 arrays: `cls` (C, D), if the model has a class token; `avg_patch` (C, D), the mean
      over the tokens with data; `patch` (C, tokens * D), all of them side by side; and `input`
      (C, tokens), no model's work: the mean of each token's values, to compare with.

    Raises:
      InputError: the stores lie on another grid than the model.
    """
    geometry = union_geometry(sources)
    options = files.options
    patch = files.geometry.patch_shape[0]
    tokenizer = Tokenizer(geometry, options.t_patch, patch, files.preprocessing["normalize"])
    check_grid(tokenizer.geometry, files.geometry, "The data", "the model")
    place_M = tokenizer.place(options.slots)
    model = MaskedAutoencoder(options)

    def encode(params, batch):
        tokens: Tokens = tokenizer(batch["bold"], batch["valid"])
        has_data = tokens.has_data_BxM
        cls, _, patches = model.apply(
            {"params": params}, tokens.values_BxMxV, has_data, place_M, method="encode"
        )
        out = {
            "patch": (patches * has_data[:, :, None]).reshape(len(patches), -1),
            "avg_patch": masked_mean(patches, has_data[:, :, None], axis=1),
            "input": masked_mean(tokens.values_BxMxV, tokens.valid_BxMxV, axis=2),
        }
        return out if cls is None else {**out, "cls": cls[:, 0]}

    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.local_devices())
    sharding = batch_sharding(mesh)
    batch_size = BATCH_PER_DEVICE * mesh.size
    reader = ClipReader(sources, geometry, options.num_frames)
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
