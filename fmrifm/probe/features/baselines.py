"""What simple methods see of the same samples: always in the table beside the model.

connectome       which parcels go together, over the whole sample
patch_embedding  the model's input tokens with their places, for an attentive head
identity         the series of parcels, frame by frame, for an mlp head
pca              principal components of the input, as many as the model is wide
input            the mean of each of the model's input tokens
untrained        the same model with fresh weights
majority         the commonest class, or the mean of the targets
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from fmrifm.input.sources import Source
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.model.tokens import sincos_table
from fmrifm.probe.features.representations import Sequences
from fmrifm.probe.samples.samples import Samples

_EPS = 1e-6


class Parcels:
    """The parcel series of runs, from stores of the same runs in parcels."""

    def __init__(self, text: str):
        """Opens the stores.

        Args:
          text: their paths separated by commas; a directory stands for the stores in it.
        """
        self.stores = stores = []
        for path in (Path(part.strip()) for part in text.split(",") if part.strip()):
            inside = [path / "store.json"] if (path / "store.json").is_file() else []
            inside = inside or sorted(path.glob("*/store.json"))
            if not inside:
                raise InputError(f"{path} is no store and holds none: check data.parcels.")
            stores += [Store(file.parent) for file in inside]
        self._runs = {
            run["key"]: (store, i) for store in stores for i, run in enumerate(store.runs)
        }
        for store in stores:
            if store.geometry.patch_dim != 1:
                raise InputError(f"{store.path} is no store of parcels: give data.parcels of them.")
            if store.geometry.n_patches != stores[0].geometry.n_patches:
                raise InputError(f"{store.path} has other parcels than {stores[0].path}.")
        self.name = stores[0].geometry.space

    def check(self, sources: list[Source], samples: Samples) -> None:
        """Raises InputError unless the runs of the samples are here, as long as they are there."""
        for s, r in sorted({*zip(samples.clips.source, samples.clips.run, strict=True)}):
            run = sources[s].store.runs[r]
            store, here = self._find(run["key"])
            found, expected = store.runs[here]["n_frames"], run["n_frames"]
            if found != expected:
                raise InputError(
                    f"Run {run['key']} has {found} frames in {store.path} and {expected} in "
                    f"{sources[s].store.path}: import both with one TR."
                )

    def read(self, key: str, start: int, num_frames: int) -> np.ndarray:
        """(T, R) float32 of frames of a run."""
        store, run = self._find(key)
        return store.read(run, start, num_frames)[..., 0].astype(np.float32)

    def _find(self, key: str) -> tuple[Store, int]:
        if key not in self._runs:
            raise InputError(f"Run {key} is in no store of data.parcels: import the same runs.")
        return self._runs[key]


def clip_series(
    sources: list[Source], samples: Samples, num_frames: int, parcels: Parcels | Geometry
) -> Iterator[np.ndarray]:
    """The (T, R) float32 series of each clip, as many frames as it has.

    Args:
      parcels: where parcel series are, or the patches whose means are taken instead.
    """
    clips = samples.clips
    for c in tqdm(range(len(clips)), "series", unit="clip", leave=False):
        store, run = sources[clips.source[c]].store, int(clips.run[c])
        span = int(clips.start[c]), min(num_frames, int(samples.n_frames_C[c]))
        if isinstance(parcels, Parcels):
            yield parcels.read(store.runs[run]["key"], *span)
        else:
            yield _patch_means(store, run, *span, parcels)


def connectomes(
    sources: list[Source], samples: Samples, num_frames: int, parcels: Parcels | Geometry
) -> np.ndarray:
    """(S, R (R - 1) / 2) float32: correlations of every two parcels over all clips of a sample.

    Args: as for `clip_series`.
    """
    series = clip_series(sources, samples, num_frames, parcels)
    rows = None
    for s, n_clips in enumerate(np.diff(samples.first_S1)):
        upper = correlations(np.concatenate([next(series) for _ in range(n_clips)]))
        if rows is None:
            rows = np.empty((len(samples), len(upper)), np.float32)
        rows[s] = upper
    return rows


def correlations(series_TxR: np.ndarray) -> np.ndarray:
    """(R (R - 1) / 2,) Pearson correlations, the upper triangle row by row; 0 for constant ones."""
    centred = series_TxR - series_TxR.mean(0)
    norm = np.linalg.norm(centred, axis=0)
    unit = centred / np.maximum(norm, _EPS)
    return (unit.T @ unit)[np.triu_indices(unit.shape[1], 1)]


def _patch_means(
    store: Store, run: int, start: int, num_frames: int, geometry: Geometry
) -> np.ndarray:
    """(T, N) float32 means of the pixels with data of each patch, 0 where there are none."""
    valid = store.valid(run)
    frames = store.read(run, start, num_frames).astype(np.float32)
    means_TxN = np.zeros((len(frames), geometry.n_patches), np.float32)
    own = np.searchsorted(geometry.patch_index, store.geometry.patch_index)
    means_TxN[:, own] = (frames * valid).sum(-1) / np.maximum(valid.sum(-1), 1)
    return means_TxN


BASELINES = (
    "connectome", "patch_embedding", "identity", "pca", "untrained", "input", "majority",
)  # fmt: skip
_SINCOS = 16  # widths that are multiples of this have a sincos table of three axes


def untrained(files: ModelFiles, seed: int) -> ModelFiles:
    """The same model with fresh weights, which have seen nobody.

    Network maps stay, as training begins with them; they have seen whom the model has seen.
    """
    model = MaskedAutoencoder(files.options)
    params = jax.jit(lambda key: nn.unbox(init_params(model, key)))(jax.random.key(seed))
    given = {name: part for name, part in files.params.items() if name == "network_maps"}
    if given:
        return dataclasses.replace(files, params=params | given)
    return files.with_params(params)


def principal_components(
    vectors: dict[str, np.ndarray], n_components: int, seed: int
) -> dict[str, np.ndarray]:
    """(S, K) float32 of every split: standardised, then rotated, by what the training set says.

    Args:
      vectors: (S, D) by split; "train" is fitted.
      n_components: K, unless there are fewer columns or training samples.
      seed: of the randomised decomposition of large sets.
    """
    n_components = min(n_components, *vectors["train"].shape)
    pca = make_pipeline(StandardScaler(), PCA(n_components, random_state=seed))
    pca.fit(vectors["train"])
    return {name: pca.transform(x).astype(np.float32) for name, x in vectors.items()}


def series_tokens(
    sources: list[Source], samples: Samples, num_frames: int, parcels: Parcels | Geometry
) -> Sequences:
    """The series of samples in parcels or patches, a token a frame."""
    x, keep = None, np.zeros((len(samples.clips), num_frames), bool)
    for c, series in enumerate(clip_series(sources, samples, num_frames, parcels)):
        if x is None:
            x = np.zeros((len(keep), num_frames, series.shape[1]), np.float32)
        x[c, : len(series)], keep[c, : len(series)] = series, True
    return Sequences(x, keep, samples.first_S1)


def token_positions(options: ModelOptions, places_M: np.ndarray) -> np.ndarray:
    """(M, V) float32: the fixed positions of tokens, as wide as a token, zeros where none fit.

    Args:
      places_M: the tokens' places on the full grid.
    """
    width = options.token_dim // _SINCOS * _SINCOS
    table = np.zeros((len(places_M), options.token_dim), np.float32)
    if width:
        plain = dataclasses.replace(options, pos_embed="sincos")
        table[:, :width] = sincos_table(plain, width)[places_M]
    return table
