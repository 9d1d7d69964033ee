"""What all heads of a grid are shown, in which order.

Letters: S samples of a split, B samples of a micro-batch, L tokens, D width.
"""

from typing import Protocol

import numpy as np

from fmrifm.evaluation.grid_settings import GridSettings


class Tokens(Protocol):
    """Features of the samples of a split."""

    shape: tuple[int, int, int]  # S, L (the most that a sample has), D

    def read(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, L, D) float32 features of samples, and (B, L) bool which tokens count."""


class Batches:
    """Random access: element i is micro-batch i, a pure function of (seed, i).

    Args:
      tokens: features of the training set.
      targets: (S,) labels or (S, K) values.
      settings: of the grid.
      seed: of the order of the samples.
      n_micro: into how many parts of one size a batch is cut; what is over weighs nothing.
    """

    def __init__(
        self,
        tokens: Tokens,
        targets: np.ndarray,
        settings: GridSettings,
        seed: int,
        n_micro: int,
    ):
        self._tokens, self._targets, self._n_micro = tokens, targets, n_micro
        self._size = -(-settings.batch_size // n_micro)
        self._batch_size = settings.batch_size
        self._order = draw_order(targets, settings, seed)

    def __len__(self) -> int:
        return len(self._order) // self._batch_size * self._n_micro

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        update, micro = divmod(int(i), self._n_micro)
        place = micro * self._size + np.arange(self._size)
        counted = place < self._batch_size
        first = update * self._batch_size
        index_B = self._order[first + np.where(counted, place, 0)]
        x, keep = self._tokens.read(index_B)
        weight = (counted / self._batch_size).astype(np.float32)
        return {"x": x, "keep": keep, "target": self._targets[index_B], "weight": weight}


def draw_order(targets: np.ndarray, settings: GridSettings, seed: int) -> np.ndarray:
    """Samples in the order in which they are seen: permutations one after another, or by class."""
    rng = np.random.default_rng(seed)
    total = settings.epochs * settings.updates * settings.batch_size
    if not settings.balanced_sampling:
        n_turns = -(-total // len(targets))
        return np.concatenate([rng.permutation(len(targets)) for _ in range(n_turns)])[:total]
    groups = [np.flatnonzero(targets == label) for label in np.unique(targets)]
    which = rng.integers(len(groups), size=total)
    sizes = np.array([len(group) for group in groups])
    place = (rng.random(total) * sizes[which]).astype(np.int64)
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate(groups)[starts[which] + place]
