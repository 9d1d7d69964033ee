"""From the cached features of clips to what a head takes of a sample.

A sample of several clips has the mean of their vectors, and all of their tokens. Letters: S
samples, C clips, B samples of a batch, L tokens of a sample at most, M tokens of a clip, D width.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from fmrifm.probe.samples.samples import Samples

# The arrays that each representation is made of.
NEEDS = {
    "cls": ("cls",),
    "avg_patch": ("avg_patch", "has_data"),
    "cls_avg_patch": ("cls", "avg_patch", "has_data"),
    "avg_reg": ("reg",),
    "concat_reg": ("reg",),
    "reg": ("reg",),
    "patch": ("patch", "has_data"),
    "patch_connectome": ("patch", "has_data"),
    "input": ("input",),
    "tokens": ("tokens", "has_data"),
}
SEQUENCES = ("reg", "patch", "tokens")
# Weight of a clip without data: it counts for nothing, and a sample of such clips only is zero.
_NO_DATA = 1e-9
_TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Vectors:
    """A vector a sample, as a sequence of one token."""

    x_SxD: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x_SxD), 1, self.x_SxD.shape[1]

    def read(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See grid.Tokens."""
        return self.x_SxD[index_B, None], np.ones((len(index_B), 1), bool)


def standardise(features: Mapping[str, Vectors]) -> dict[str, Vectors]:
    """Every column less its mean over the samples of "train", in units of its deviation there."""
    # By scikit-learn, which takes columns for constant that vary by rounding only.
    scaler = StandardScaler().fit(features["train"].x_SxD)
    return {name: Vectors(scaler.transform(some.x_SxD)) for name, some in features.items()}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """All tokens of the clips of each sample.

    Attributes:
      x_CxMxD: float, may be memory-mapped.
      keep_CxM: bool, the tokens that count; None for all.
      first_S1: (S + 1,), see `Samples`.
      extra_MxD: added to the tokens of every clip; None for nothing.
    """

    x_CxMxD: np.ndarray
    keep_CxM: np.ndarray | None
    first_S1: np.ndarray
    extra_MxD: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        n_clips = int(np.diff(self.first_S1).max())
        return len(self.first_S1) - 1, n_clips * self.x_CxMxD.shape[1], self.x_CxMxD.shape[2]

    def read(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See grid.Tokens."""
        _, length, width = self.shape
        n_tokens = self.x_CxMxD.shape[1]
        clip_BxW = self.first_S1[index_B][:, None] + np.arange(length // n_tokens)
        there_BxW = clip_BxW < self.first_S1[index_B + 1][:, None]
        clip_BxW = np.where(there_BxW, clip_BxW, self.first_S1[index_B][:, None])
        x = self.x_CxMxD[clip_BxW].astype(np.float32)
        if self.extra_MxD is not None:
            x += self.extra_MxD
        keep = np.broadcast_to(there_BxW[:, :, None], x.shape[:3])
        if self.keep_CxM is not None:
            keep = keep & self.keep_CxM[clip_BxW]
        return x.reshape(len(x), length, width), keep.reshape(len(x), length)


def sequence(kind: str, features: Mapping[str, np.ndarray], samples: Samples) -> Sequences:
    """The tokens of samples, for heads that take sequences."""
    return Sequences(features[kind], features.get("has_data"), samples.first_S1)


def vector(
    kind: str, features: Mapping[str, np.ndarray], samples: Samples, slots: int = 1
) -> np.ndarray:
    """(S, D) float32 features of samples, for heads that take vectors; tokens lie side by side.

    Args:
      slots: tokens of a patch in a clip, for "patch_connectome".
    """
    first = samples.first_S1
    if kind == "avg_patch":
        count_C = np.asarray(features["has_data"]).sum(1)
        return mean_over_clips(features["avg_patch"], first, np.maximum(count_C, _NO_DATA))
    if kind == "patch_connectome":
        return embedding_connectomes(features["patch"], features["has_data"], first, slots)
    if kind == "cls_avg_patch":
        parts = [vector(part, features, samples) for part in ("cls", "avg_patch")]
        return np.concatenate(parts, axis=1)
    if kind == "avg_reg":
        return mean_over_clips(features["reg"].mean(1), first)
    array = features["reg" if kind == "concat_reg" else kind]
    return mean_over_clips(array.reshape(len(array), -1), first)


def check_clips(kind: str, samples: Samples, slots: int) -> None:
    """Raises InputError where a sample has too few clips for a representation."""
    clips_S = np.diff(samples.first_S1)
    if kind == "patch_connectome" and (clips_S * slots).min() < 2:
        raise InputError(
            f"patch_connectome is of how tokens vary over the clips of a sample, and "
            f"{samples.keys[clips_S.argmin()].strip('/')} has a single clip: set unit to run, "
            "session or subject, leave it out by data.path, or take avg_patch."
        )


def embedding_connectomes(
    patch_CxMxD: np.ndarray, has_data_CxM: np.ndarray, first_S1: np.ndarray, slots: int
) -> np.ndarray:
    """(S, N (N - 1) / 2) float32: which patches go together over the clips of a sample.

    The correlation of the tokens of two patches, each the series of all their D values less their
    means over clips and slots (multivariate connectivity: Anzellotti & Coutanche, Beyond functional
    connectivity, Trends in Cognitive Sciences 22, 2018). 0 for a patch that does not vary.

    Args:
      patch_CxMxD: tokens, those of N patches slot by slot.
      has_data_CxM: which of them have any.
      slots: tokens of a patch in a clip, one after another in time.
    """
    n_patches = patch_CxMxD.shape[1] // slots
    upper = np.triu_indices(n_patches, 1)
    out = np.empty((len(first_S1) - 1, len(upper[0])), np.float32)
    for s, (first, last) in enumerate(zip(first_S1[:-1], first_S1[1:], strict=True)):
        keep = np.asarray(has_data_CxM[first:last]).reshape(-1, n_patches, 1)
        x = patch_CxMxD[first:last].astype(np.float32).reshape(len(keep), n_patches, -1) * keep
        x = (x - x.sum(0) / np.maximum(keep.sum(0), 1)) * keep
        x = x.transpose(1, 0, 2).reshape(n_patches, -1)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY)
        out[s] = (x @ x.T)[upper]
    return out


def mean_over_clips(
    x_CxD: np.ndarray, first_S1: np.ndarray, weight_C: np.ndarray | None = None
) -> np.ndarray:
    """(S, D) float32 mean over the clips of each sample."""
    if len(first_S1) == len(x_CxD) + 1:  # a clip each
        return np.asarray(x_CxD, np.float32)
    weight_C = np.ones(len(x_CxD)) if weight_C is None else weight_C
    out = np.empty((len(first_S1) - 1, x_CxD.shape[1]), np.float32)
    for s, (first, last) in enumerate(zip(first_S1[:-1], first_S1[1:], strict=True)):
        out[s] = np.average(x_CxD[first:last].astype(np.float64), 0, weight_C[first:last])
    return out
