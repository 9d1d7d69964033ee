"""Every row of a probe's table: which head is fitted to what.

Heads that take vectors (logistic, ridge, knn, linear) get one a sample; attentive ones all tokens;
mlp either.
"""

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.model.files import ModelFiles
from fmrifm.probe.features.baselines import (
    Parcels,
    connectomes,
    principal_components,
    series_tokens,
    token_positions,
    untrained,
)
from fmrifm.probe.features.clip_encoder import ClipEncoder
from fmrifm.probe.features.encode import encode, keep_blocks
from fmrifm.probe.features.representations import (
    NEEDS,
    SEQUENCES,
    Sequences,
    Vectors,
    check_clips,
    sequence,
    vector,
)
from fmrifm.probe.samples.splits import Splits

REPRESENTATIONS = tuple(kind for kind in NEEDS if kind not in ("input", "tokens"))
CLOSED_FORM = {"classification": ("logistic", "knn"), "regression": ("ridge", "knn")}
GRID = ("linear", "attn", "mlp")
_WIDEST_TOKENS = 1024  # those that were published with heads of their own width


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table to be.

    Attributes:
      inner: width of trained heads where the config leaves it open; 0 for that of the features.
    """

    name: str
    head: str
    features: dict[str, Vectors | Sequences]
    baseline: bool
    inner: int = 0


def split_layer(name: str) -> tuple[str, int | None]:
    """("patch", 6) of "patch@6", the output after six blocks; None for the whole encoder."""
    kind, at, depth = name.partition("@")
    if at and not depth.isdecimal():
        raise InputError(f"'{name}' names no layer: write {kind}@6 for what six blocks give.")
    return kind, int(depth) if at else None


def find_entries(
    config: ConfigDict, files: ModelFiles, splits: Splits, parcels: Parcels | None, cache: Path
) -> Iterator[Entry]:
    """Yields the rows, the model's first."""
    seen = Encoded(config, config.heads, files, splits, cache)
    fresh = seen.untrained(config.seed) if "untrained" in config.baselines else None
    for name in config.representations:
        for head in (head for head in config.heads if takes(head, split_layer(name)[0])):
            yield Entry(name, head, seen.take(name, head), False)
            if fresh is not None:
                yield Entry(f"untrained_{name}", head, fresh.take(name, head), True)
    yield from _baselines(config, files, splits, parcels, seen)


def takes(head: str, kind: str) -> bool:
    """Whether a head goes with a representation."""
    if head == "attn":
        return kind in SEQUENCES
    return head in GRID or any(head in heads for heads in CLOSED_FORM.values())


def _needs(kind: str, head: str) -> str:
    """The representation that a head is given of one: `linear` takes the mean of tokens."""
    return f"avg_{kind}" if kind in SEQUENCES and head == "linear" else kind


class Encoded:
    """Features of all splits: all that is wanted of a layer in one pass, when first asked for."""

    def __init__(
        self,
        config: ConfigDict,
        heads: Iterable[str],
        files: ModelFiles,
        splits: Splits,
        cache: Path,
    ):
        self._files, self._splits, self._cache, self._name = files, splits, cache, ""
        self._done: dict[int | None, dict] = {}
        # The arrays that will be asked for of each layer, None for the whole encoder.
        self._wanted: dict[int | None, set[str]] = {None: set()}
        for kind, depth in map(split_layer, config.representations):
            kinds = {_needs(kind, head) for head in heads if takes(head, kind)}
            self._wanted.setdefault(depth, set()).update(*(NEEDS[kind] for kind in kinds))
        for name, kind in (("pca", "input"), ("input", "input"), ("patch_embedding", "tokens")):
            if name in config.baselines:
                self._wanted[None].update(NEEDS[kind])

    def untrained(self, seed: int, name: str = "untrained") -> "Encoded":
        """The representations of the same model with fresh weights."""
        other = copy.copy(self)
        other._files, other._name, other._done = untrained(self._files, seed), name, {}
        other._wanted = {k: kinds - {"input", "tokens"} for k, kinds in self._wanted.items()}
        return other

    def take(self, name: str, head: str) -> dict[str, Vectors | Sequences]:
        """A representation as a head takes it."""
        kind, depth = split_layer(name)
        samples, kind = self._splits.samples, _needs(kind, head)
        slots = self._files.options.num_frames // self._files.options.t_patch
        for some in samples.values():
            check_clips(kind, some, slots)
        if depth not in self._done:
            self._done[depth] = self._encode(depth)
        arrays = self._done[depth].items()
        if kind in SEQUENCES and head in ("attn", "mlp"):
            return {name: sequence(kind, some, samples[name]) for name, some in arrays}
        return {name: Vectors(vector(kind, some, samples[name], slots)) for name, some in arrays}

    def _encode(self, depth: int | None) -> dict[str, dict[str, np.ndarray]]:
        files, splits = self._files, self._splits
        if depth is not None:
            files = keep_blocks(files, depth)
        words = (self._name, "" if depth is None else f"block {depth}")
        return {
            name: encode(
                files,
                sources,
                splits.samples[name],
                self._wanted[depth],
                self._cache,
                " ".join(filter(None, (name, *words))),
                splits.geometry,
                splits.whole,
            )
            for name, sources in splits.sources.items()
        }


def open_parcels(text: str, splits: Splits) -> Parcels | None:
    """The stores of `data.parcels`, which must hold the runs of all samples; None without any."""
    if not text:
        return None
    parcels = Parcels(text)
    for name, some in splits.sources.items():
        parcels.check(some, splits.samples[name])
    return parcels


def connectome_vectors(
    files: ModelFiles, splits: Splits, parcels: Parcels | None
) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the row, and the connectomes of all splits."""
    areas, num_frames = parcels or splits.geometry, files.options.num_frames
    return f"connectome_{parcels.name if parcels else 'patches'}", {
        name: connectomes(sources, splits.samples[name], num_frames, areas)
        for name, sources in splits.sources.items()
    }


def _baselines(config, files: ModelFiles, splits: Splits, parcels, seen: Encoded):
    chosen = config.baselines
    heads = [head for head in config.heads if takes(head, "avg_patch")]
    heads = heads or CLOSED_FORM[config.task][:1]
    for baseline in (name for name in ("connectome", "pca", "input") if name in chosen):
        name = baseline
        if baseline == "connectome":
            name, vectors = connectome_vectors(files, splits, parcels)
        else:
            vectors = {split: some.x_SxD for split, some in seen.take("input", "").items()}
        if baseline == "pca":
            vectors = principal_components(vectors, files.options.embed_dim, config.seed)
        features = {split: Vectors(x) for split, x in vectors.items()}
        for head in heads:
            yield Entry(name, head, features, True)
    if "patch_embedding" in chosen:
        encoder = ClipEncoder(files, [], splits.geometry)
        places_MxV = token_positions(files.options, encoder.objective.places)
        tokens = seen.take("tokens", "attn")
        tokens = {k: dataclasses.replace(x, extra_MxD=places_MxV) for k, x in tokens.items()}
        # 49 heads as wide as such tokens would take 26 GB.
        inner = files.options.embed_dim if files.options.token_dim > _WIDEST_TOKENS else 0
        yield Entry("patch_embedding", "attn", tokens, True, inner)
    if "identity" in chosen:
        areas = parcels or splits.geometry
        series = {
            name: series_tokens(sources, splits.samples[name], files.options.num_frames, areas)
            for name, sources in splits.sources.items()
        }
        yield Entry("identity", "mlp", series, True)
    if "majority" in chosen:
        nothing = {k: Vectors(np.zeros((len(x), 1), np.float32)) for k, x in splits.samples.items()}
        yield Entry("none", "majority", nothing, True)


def check_pairs(config: ConfigDict) -> None:
    """Raises InputError where a representation or a head is of no use."""
    for name in config.representations:
        if not any(takes(head, split_layer(name)[0]) for head in config.heads):
            raise InputError(
                f"No head takes the representation '{name}': attn takes patch and reg, others "
                "vectors too."
            )
    if "attn" in config.heads and not any(
        split_layer(name)[0] in SEQUENCES for name in config.representations
    ):
        raise InputError("The head attn takes tokens: add patch or reg to representations.")
