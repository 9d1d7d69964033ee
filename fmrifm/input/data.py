"""The data of a run: its stores, opened and checked against each other."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

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

    def chosen(self) -> dict[str, str]:
        """data.train and data.eval -> a checksum of the runs that they choose from their stores."""
        sets = {"data.train": {"": self.train}, "data.eval": self.evals}
        keys = {
            field: [
                [name, [[line["key"] for line in source.lines] for source in sources]]
                for name, sources in sorted(named.items())
            ]
            for field, named in sets.items()
        }
        return {field: _digest(value) for field, value in keys.items()}


def store_digests(stores: Iterable[Store]) -> dict[str, str]:
    """Store path -> what changes when its data do."""
    named = {str(store.path): store for store in stores}
    return {without_secrets(path): store_digest(store) for path, store in named.items()}


def store_digest(store: Store) -> str:
    """A checksum of all of a store that training reads, in parts joined by "-".

    These are the geometry and the frames; the scale of the runs, if the store has it; and the TR,
    missing pixels and onsets of events. Earlier versions recorded fewer of them, so that a digest
    of theirs is the beginning of the digest of an unchanged store.
    """
    runs = [[run["key"], run["n_frames"], run["crc32"]] for run in store.runs]
    parts = [[store.meta["geometry_sha256"], runs]]
    if store.has_scale:
        parts.append([scale_of(store, r) for r in range(len(store.runs))])
    onsets = [[event.get("onset") for event in run.get("events") or []] for run in store.runs]
    parts.append([store.tr, [run.get("missing") for run in store.runs], onsets])
    return "-".join(map(_digest, parts))


def same_stores(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether digests of an earlier start, perhaps of an earlier version, are those of now."""
    return before.keys() == now.keys() and all(now[x].startswith(before[x]) for x in before)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


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
    check = data.get("verify", True)  # configs of earlier versions do not have it
    train = usable_runs(parse_sources(data.train, cache, check), frames_read, data.skip_short_runs)
    geometry = union_geometry(train)
    evals = {}
    for name, sources in parse_named_sources(data.eval, cache, check).items():
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
