"""The data of a run: its stores, opened and checked against each other."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable

import jax
import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.files.block_cache import BlockCache
from data_tools.safe_text import without_secrets
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store, scale_checksum
from fmrifm.input.augment import Augmentation
from fmrifm.input.clips import usable_runs
from fmrifm.input.likeness import find_unlike
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import (
    Source,
    check_grid,
    parse_named_sources,
    parse_sources,
    union_geometry,
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The open stores of a run.

    Attributes:
      train: sources of the training clips.
      geometry: the union of their geometries, as stored.
      cut: the same pixels in the patches of the model.
      evals: name -> sources of an evaluation set.
    """

    train: list[Source]
    geometry: Geometry
    cut: Geometry
    evals: dict[str, list[Source]]

    def digests(self) -> dict[str, str]:
        """Store path -> what changes when its data do."""
        sources = itertools.chain(self.train, *self.evals.values())
        return store_digests(source.store for source in sources)


def store_digests(stores: Iterable[Store]) -> dict[str, str]:
    """Store path -> what changes when its data do."""
    named = {str(store.path): store for store in stores}
    return {without_secrets(path): store_digest(store) for path, store in named.items()}


def store_digest(store: Store) -> str:
    """A checksum of the geometry of a store and of the frames of its runs, and of their scale."""
    runs = [[run["key"], run["n_frames"], run["crc32"]] for run in store.runs]
    parts = [[store.meta["geometry_sha256"], runs]]
    if store.has_scale:  # after the first part, which is all that earlier versions recorded
        parts.append([scale_of(store, r) for r in range(len(store.runs))])
    texts = [json.dumps(part).encode() for part in parts]
    return "-".join(hashlib.sha256(text).hexdigest()[:16] for text in texts)


def scale_of(store: Store, run: int) -> int | None:
    """A checksum of the mean and deviation of a run before z-scoring: read if not recorded."""
    if not store.has_scale:
        return None
    recorded = store.runs[run].get("scale_crc32")
    return scale_checksum(*store.scale(run)) if recorded is None else recorded


def open_data(config: ConfigDict) -> Data:
    """Opens and checks the stores of `config.data`.

    Raises:
      InputError: see `parse_sources`; also an evaluation store on another grid.
    """
    data = config.data
    cache = BlockCache(data.cache_dir, int(data.cache_gb * 1e9)) if data.cache_dir else None
    frames_read = Augmentation(**config.augment).frames_read(data.num_frames)
    train = usable_runs(parse_sources(data.train, cache), frames_read, data.skip_short_runs)
    geometry = union_geometry(train)
    evals = {}
    for name, sources in parse_named_sources(data.eval, cache).items():
        evals[name] = usable_runs(sources, data.num_frames, data.skip_short_runs)
        grid = union_geometry(evals[name])
        check_grid(grid, geometry, f"The eval set '{name}'", "the training data")
        stores = [source.store for source in train]
        trained = {"tr": stores[0].tr, "stores": [store.preprocessing for store in stores]}
        if jax.process_index() == 0:
            for remark in find_unlike((x.store for x in evals[name]), trained, "this model"):
                print(f"Eval set '{name}': {remark}")
    if jax.process_index() == 0:
        sources = itertools.chain(train, *evals.values())
        for store in {source.store.path: source.store for source in sources}.values():
            if not np.array_equal(store.geometry.mask, geometry.mask):
                overlap = geometry.overlap(store.geometry)
                print(f"{store.path} has another mask on the same grid: overlap {overlap:.1%}.")
    if config.keep_best is not None and config.keep_best not in evals:
        raise InputError(
            f"keep_best={config.keep_best!r} is no eval set: choose one of data.eval "
            f"({', '.join(evals) or 'none given'})."
        )
    return Data(train, geometry, cut_geometry(geometry, config.model.patch), evals)
