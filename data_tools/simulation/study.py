"""What to simulate: the sizes and strengths of a study, checked."""

import dataclasses
import zlib

import numpy as np

from data_tools.errors import InputError
from data_tools.simulation import design as designs


@dataclasses.dataclass(frozen=True)
class Study:
    """What to simulate; the flags of `data_tools.simulate` that change the data.

    Attributes:
      subjects: number of subjects.
      runs: task runs a subject.
      rest_runs: rest runs a subject.
      frames: frames a run.
      conditions: number of task conditions.
      task: "block" or "event".
      effect: strength of the task's response; 0 is none.
      trait_effect: strength with which age and sex move the coupling of networks; 0 is none.
      tr: seconds from frame to frame.
      seed: of all randomness.
    """

    subjects: int = 12
    runs: int = 2
    rest_runs: int = 1
    frames: int = 240
    conditions: int = 4
    task: str = "block"
    effect: float = 1.0
    trait_effect: float = 1.0
    tr: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for flag, least in (("subjects", 1), ("runs", 0), ("rest_runs", 0), ("seed", 0)):
            if getattr(self, flag) < least:
                raise InputError(f"--{flag.replace('_', '-')} must be {least} or more.")
        for flag in ("effect", "trait_effect"):
            if not 0 <= getattr(self, flag) < np.inf:
                raise InputError(f"--{flag.replace('_', '-')} must be 0 (no effect) or more.")
        if self.runs + self.rest_runs == 0:
            raise InputError("Nothing to simulate: give --runs or --rest-runs.")
        if not 0.1 <= self.tr <= 10:
            raise InputError(f"--tr={self.tr:g} is not a TR in seconds: choose one from 0.1 to 10.")
        if self.seconds < designs.CLIP_SECONDS:
            raise InputError(
                f"{self.frames} frames at a TR of {self.tr:g} s do not hold one clip of "
                f"{designs.CLIP_SECONDS:g} s: raise --frames."
            )
        if self.runs:
            if self.conditions < 2:
                raise InputError("--conditions must be 2 or more: with one there is no question.")
            designs.count_rounds(self.design, self.conditions, self.seconds)

    @property
    def seconds(self) -> float:
        """From the first frame of a run to the last."""
        return self.tr * (self.frames - 1)

    @property
    def design(self) -> designs.Design:
        return designs.DESIGNS[self.task]

    @property
    def condition_names(self) -> list[str]:
        return designs.condition_names(self.conditions)

    @property
    def run_names(self) -> list[tuple[str, int]]:
        """Task and number, from 1, of each run of a subject."""
        rest = [("rest", number + 1) for number in range(self.rest_runs)]
        return rest + [(self.task, number + 1) for number in range(self.runs)]

    def rng(self, *what: str | int) -> np.random.Generator:
        """The source of randomness of one thing, independent of all others."""
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])
