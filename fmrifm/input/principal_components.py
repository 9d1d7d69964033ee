"""Principal components of training frames: what a linear model knows about the data.

One pass over the frames, whose memory does not grow with their number. Letters: F frames, V pixels
of all patches, K components.
"""

from typing import NamedTuple

import numpy as np


class Components(NamedTuple):
    """The mean and the directions of largest variance of frames.

    Attributes:
      mean_V: float32.
      maps_KxV: float32, ordered by variance; each has the length of its standard deviation.
    """

    mean_V: np.ndarray
    maps_KxV: np.ndarray


class StreamingComponents:
    """Collects principal components over batches of frames.

    Each batch is merged with the `keep` components so far: the incremental method of Ross et al.
    2008 (Int. J. Comput. Vis. 77, 125-141), exact as long as no more frames than `keep` have come.
    """

    def __init__(self, n_pixels: int, keep: int):
        self._keep, self._count = keep, 0
        self._mean_V = np.zeros(n_pixels, np.float32)
        self._rows_RxV = np.zeros((0, n_pixels), np.float32)

    def add(self, frames_FxV: np.ndarray) -> None:
        """Merges float32 frames."""
        new = len(frames_FxV)
        mean_V = frames_FxV.mean(0)
        # The step from mean to mean is a direction of variance, too.
        weight = np.float32(np.sqrt(self._count * new / (self._count + new)))
        step_1xV = weight * (mean_V - self._mean_V)[None]
        stack = np.concatenate([self._rows_RxV, frames_FxV - mean_V, step_1xV])
        # The small Gram matrix has the same spectrum as the covariance of all pixels.
        _, vectors = np.linalg.eigh((stack @ stack.T).astype(np.float64))
        self._rows_RxV = vectors[:, : -self._keep - 1 : -1].T.astype(np.float32) @ stack
        self._count += new
        self._mean_V += np.float32(new / self._count) * (mean_V - self._mean_V)

    def components(self) -> Components:
        """The components of all frames so far, at most as many as half of the frames."""
        rows_KxV = self._rows_RxV[: self._count // 2]
        return Components(self._mean_V, rows_KxV / np.float32(np.sqrt(self._count)))
