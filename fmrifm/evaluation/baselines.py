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

import jax
import numpy as np
from flax import linen as nn
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.geometry import Geometry
from fmrifm.evaluation.connectome import Parcels, clip_series
from fmrifm.evaluation.representations import Sequences
from fmrifm.evaluation.samples import Samples
from fmrifm.input.sources import Source
from fmrifm.model.files import ModelFiles
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.model.positions import sincos_table

BASELINES = (
    "connectome", "patch_embedding", "identity", "pca", "untrained", "input", "majority",
)  # fmt: skip
_SINCOS = 16  # widths that are multiples of this have a sincos table of three axes


def untrained(files: ModelFiles, seed: int) -> ModelFiles:
    """The same model with fresh weights."""
    model = MaskedAutoencoder(files.options)
    params = jax.jit(lambda key: nn.unbox(init_params(model, key)))(jax.random.key(seed))
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
      options: of the model.
      places_M: the tokens' places on the full grid.
    """
    width = options.token_dim // _SINCOS * _SINCOS
    table = np.zeros((len(places_M), options.token_dim), np.float32)
    if width:
        plain = dataclasses.replace(options, pos_embed="sincos")
        table[:, :width] = sincos_table(plain, width)[places_M]
    return table
