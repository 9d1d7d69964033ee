"""The clips of samples as batches: shuffled with their targets, or in their order.

A sample is one clip here. Batches are as `ClipReader.read` has them, with `reversed` (B,) bool, the
clips to be played backwards, and in training `target` (B,) int32 or (B, E) float32.

Letters: B clips of a batch, S samples, E numbers of a label.
"""

import dataclasses

import numpy as np

from data_tools.errors import InputError
from fmrifm.input.pipeline import ClipReader, EvalBatches
from fmrifm.input.sources import Source
from fmrifm.probe.heads.settings import FinetuneSettings
from fmrifm.probe.samples.samples import Samples


def check_samples(samples: Samples, num_frames: int) -> None:
    """Raises InputError unless each sample is one whole clip."""
    if (np.diff(samples.first_S1) != 1).any():
        raise InputError(
            f"Fine-tuning takes one clip a sample, and {len(samples)} samples have "
            f"{len(samples.clips)} clips: set unit=clip."
        )
    short = np.flatnonzero(samples.n_frames_C < num_frames)
    if len(short):
        raise InputError(
            f"Run {samples.keys[short[0]]} is shorter than a clip of {num_frames} frames, which "
            "fine-tuning does not take: filter it out."
        )


def backwards(samples: Samples) -> np.ndarray:
    """(S,) bool: which clips are played backwards."""
    flags_S = samples.reversed_C
    return np.zeros(len(samples), bool) if flags_S is None else flags_S


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledBatches:
    """Shuffled samples with their targets: element k is the batch of update k.

    Each sample comes once a pass. With `steps_per_epoch` 0 an epoch is a pass, whose last batch is
    filled up with rows that do not count; otherwise passes follow each other without a gap.
    """

    reader: ClipReader
    samples: Samples
    targets: np.ndarray
    settings: FinetuneSettings
    seed: int

    @property
    def rows(self) -> int:
        """Clips of an update."""
        return self.settings.batch_size * self.settings.accumulation

    @property
    def steps_per_epoch(self) -> int:
        return self.settings.steps_per_epoch or -(-len(self.samples) // self.rows)

    def __len__(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def index(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) which samples make the batch of a step, and (B,) bool, which rows count."""
        count = len(self.samples)
        length = count if self.settings.steps_per_epoch else self.steps_per_epoch * self.rows
        turn_B, place_B = np.divmod(step * self.rows + np.arange(self.rows), length)
        counted_B, index_B = place_B < count, np.zeros(self.rows, np.int64)
        for turn in np.unique(turn_B):
            order_S = np.random.default_rng((self.seed, int(turn))).permutation(count)
            rows = (turn_B == turn) & counted_B
            index_B[rows] = order_S[place_B[rows]]
        return index_B, counted_B

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        index_B, counted_B = self.index(int(step))
        words = np.stack([np.full(self.rows, int(step)), np.arange(self.rows)], 1)
        batch = self.reader.read(self.samples.clips[index_B], words.astype(np.uint32), counted_B)
        reversed_B = backwards(self.samples)[index_B]
        return {**batch, "reversed": reversed_B, "target": self.targets[index_B]}


@dataclasses.dataclass(frozen=True, eq=False)
class ListedBatches:
    """Samples in their order; the last batch is filled up with rows that do not count."""

    reader: ClipReader
    sources: list[Source]
    samples: Samples
    batch_size: int

    @property
    def _batches(self) -> EvalBatches:
        rows = np.arange(self.batch_size)
        return EvalBatches(self.reader, self.sources, self.samples.clips, self.batch_size, rows)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rows = int(index) * self.batch_size + np.arange(self.batch_size)
        reversed_B = backwards(self.samples)[np.where(rows < len(self.samples), rows, 0)]
        return {**self._batches[index], "reversed": reversed_B}
