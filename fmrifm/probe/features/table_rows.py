"""Every row of a probe's table: which head is fitted to what.

Heads that take vectors (logistic, ridge, knn, linear) get one a sample; attentive ones all tokens;
mlp either.
"""

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
from fmrifm.probe.samples.samples import Samples
from fmrifm.probe.samples.splits import Splits

REPRESENTATIONS = tuple(kind for kind in NEEDS if kind not in ("input", "tokens"))
CLOSED_FORM = {"classification": ("logistic", "knn"), "regression": ("ridge", "knn")}
GRID = ("linear", "attn", "mlp")
_WIDEST_TOKENS = 1024  # those that were published with heads of their own width


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table to be.

    Attributes:
      name: of the representation.
      head: that is fitted to it.
      features: by split.
      baseline: whether it is one.
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
    heads = tuple(config.heads)
    wanted = wanted_arrays(config.representations, heads, config.baselines)
    seen = Encoded(files, "", wanted, splits, cache)
    fresh = None
    if "untrained" in config.baselines:
        unread = {depth: kinds - {"input", "tokens"} for depth, kinds in wanted.items()}
        fresh = Encoded(untrained(files, config.seed), "untrained", unread, splits, cache)
    for name in config.representations:
        kind, depth = split_layer(name)
        for head in (head for head in heads if takes(head, kind)):
            yield Entry(name, head, seen.take(kind, head, depth), False)
            if fresh is not None:
                yield Entry(f"untrained_{name}", head, fresh.take(kind, head, depth), True)
    yield from _baselines(config, files, splits, parcels, seen)


def takes(head: str, kind: str) -> bool:
    """Whether a head goes with a representation."""
    return kind in SEQUENCES if head == "attn" else head in GRID or head in _closed()


def _closed() -> set[str]:
    return {head for heads in CLOSED_FORM.values() for head in heads}


def _needs(kind: str, head: str) -> str:
    """The representation that a head is given of one: `linear` takes the mean of tokens."""
    return f"avg_{kind}" if kind in SEQUENCES and head == "linear" else kind


def wanted_arrays(
    representations: Iterable[str], heads: Iterable[str], baselines: Iterable[str]
) -> dict[int | None, set[str]]:
    """The arrays of features that are asked for of each layer, None for the whole encoder."""
    wanted: dict[int | None, set[str]] = {None: set()}
    for kind, depth in map(split_layer, representations):
        kinds = {_needs(kind, head) for head in heads if takes(head, kind)}
        wanted.setdefault(depth, set()).update(*(NEEDS[kind] for kind in kinds))
    for name, kind in (("pca", "input"), ("input", "input"), ("patch_embedding", "tokens")):
        if name in baselines:
            wanted[None].update(NEEDS[kind])
    return wanted


class Encoded:
    """Features of all splits: all that is wanted of a layer in one pass, when first asked for.

    Args:
      files: the model.
      name: of it, for the progress bar; "" for the one that is probed.
      wanted: the arrays of features that will be asked for of each layer, by `wanted_arrays`.
      splits: whose clips.
      cache: directory for features.
      whole: samples that have all clips of the splits, and are encoded in their place; or None.
    """

    def __init__(
        self,
        files: ModelFiles,
        name: str,
        wanted: dict[int | None, set[str]],
        splits: Splits,
        cache: Path,
        whole: Samples | None = None,
    ):
        self._files, self._name, self._wanted = files, name, wanted
        self._splits, self._cache, self._done = splits, cache, {}
        self._whole = whole

    def take(
        self, kind: str, head: str, depth: int | None = None
    ) -> dict[str, Vectors | Sequences]:
        """A representation as a head takes it."""
        samples, kind = self._splits.samples, _needs(kind, head)
        slots = self._files.options.num_frames // self._files.options.t_patch
        for some in samples.values():
            check_clips(kind, some, slots)
        arrays = self._arrays(depth)
        if kind in SEQUENCES and head in ("attn", "mlp"):
            return {name: sequence(kind, some, samples[name]) for name, some in arrays.items()}
        return {
            name: Vectors(vector(kind, some, samples[name], slots)) for name, some in arrays.items()
        }

    def _arrays(self, depth: int | None) -> dict[str, dict[str, np.ndarray]]:
        if depth in self._done:
            return self._done[depth]
        files = self._files if depth is None else keep_blocks(self._files, depth)
        words = (self._name, "" if depth is None else f"block {depth}")
        self._done[depth] = {
            name: encode(
                files,
                sources,
                self._splits.samples[name],
                self._wanted[depth],
                self._cache,
                " ".join(filter(None, (name, *words))),
                self._splits.geometry,
                self._whole,
            )
            for name, sources in self._splits.sources.items()
        }
        return self._done[depth]


def _baselines(config, files: ModelFiles, splits: Splits, parcels, seen: Encoded):
    chosen, num_frames = config.baselines, files.options.num_frames
    heads = [head for head in config.heads if takes(head, "avg_patch")]
    heads = heads or CLOSED_FORM[config.task][:1]
    areas, vectors = parcels or splits.geometry, {}
    if "connectome" in chosen:
        vectors[f"connectome_{parcels.name if parcels else 'patches'}"] = lambda: {
            name: connectomes(sources, splits.samples[name], num_frames, areas)
            for name, sources in splits.sources.items()
        }

    def inputs() -> dict[str, np.ndarray]:
        return {name: some.x_SxD for name, some in seen.take("input", "").items()}

    if "pca" in chosen:
        vectors["pca"] = lambda: principal_components(
            inputs(), files.options.embed_dim, config.seed
        )
    if "input" in chosen:
        vectors["input"] = inputs
    for name, make in vectors.items():
        features = {split: Vectors(x) for split, x in make().items()}
        for head in heads:
            yield Entry(name, head, features, True)
    if "patch_embedding" in chosen:
        encoder = ClipEncoder(files, (), splits.geometry)
        places_MxV = token_positions(files.options, encoder.objective.places)
        tokens = seen.take("tokens", "attn")
        tokens = {k: dataclasses.replace(x, extra_MxD=places_MxV) for k, x in tokens.items()}
        # 49 heads as wide as such tokens would take 26 GB.
        inner = files.options.embed_dim if files.options.token_dim > _WIDEST_TOKENS else 0
        yield Entry("patch_embedding", "attn", tokens, True, inner)
    if "identity" in chosen:
        series = {
            name: series_tokens(sources, splits.samples[name], num_frames, areas)
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
