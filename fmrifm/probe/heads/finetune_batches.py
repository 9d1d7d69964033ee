"""The clips of samples as shuffled batches with their targets.

A sample is one clip here. Batches are as `ClipReader.read` has them, with `target` (B,) int32 or
(B, E) float32.

Letters: B clips of a batch, S samples, E numbers of a label.
"""

import dataclasses

import numpy as np

from data_tools.errors import InputError
from fmrifm.input.pipeline import ClipReader
from fmrifm.probe.features.clip_encoder import play_backwards
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
        play_backwards(batch, self.samples, index_B)
        return {**batch, "target": self.targets[index_B]}
