"""What to simulate: the sizes and strengths of a study, checked."""

import dataclasses
import math
import zlib
from typing import Any

import numpy as np

from data_tools.errors import InputError, check_least, unknown
from data_tools.simulate import design as designs

# What a diagnosis goes along with; "off" is a study without one.
DIAGNOSES = ("off", "none", "effect", "site", "motion")

# TR of one site after another, as multiples of the study's: the range of large collections.
_SITE_TRS = (1.0, 0.72, 2.0, 1.5)


def _setting(default: int | float | str, text: str) -> Any:
    """A field of `Study` with the help of its flag."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Study:
    """The flags of `data_tools.simulate` that change the data; every field has its help."""

    subjects: int = _setting(12, "number of subjects")
    runs: int = _setting(2, "task runs a subject")
    rest_runs: int = _setting(1, "rest runs a subject")
    frames: int = _setting(240, "frames a run at --tr; runs at another TR last equally long")
    conditions: int = _setting(4, "number of task conditions")
    task: str = _setting("block", "design of the task runs")
    effect: float = _setting(1.0, "strength of the task's response, 0 for none")
    trait_effect: float = _setting(
        1.0, "strength with which age and sex change connectivity, 0 for none"
    )
    tr: float = _setting(1.0, "seconds from frame to frame")
    sites: int = _setting(1, "number of sites, with TRs and noise of their own")
    motion: float = _setting(0.0, "strength of artefacts of head motion, 0 for none")
    diagnosis: str = _setting("off", "the label 'patient' goes along with this; 'off' is no label")
    diagnosis_effect: float = _setting(
        1.0, "strength with which --diagnosis=effect changes connectivity"
    )
    seed: int = _setting(0, "of all randomness: the same flags give the same bytes")

    def __post_init__(self):
        for name in ("subjects", "sites"):
            check_least(_flag(name), getattr(self, name), 1)
        for name in ("runs", "rest_runs", "seed"):
            check_least(_flag(name), getattr(self, name), 0)
        for name in ("effect", "trait_effect", "motion", "diagnosis_effect"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{_flag(name)} must be 0 (no effect) or more.")
        if self.runs + self.rest_runs == 0:
            raise InputError("Nothing to simulate: give --runs or --rest-runs.")
        for tr in self.site_trs:
            if not 0.1 <= tr <= 10:
                where = "" if tr == self.tr else f" ({tr:g} s at one of {self.sites} sites)"
                raise InputError(
                    f"--tr={self.tr:g}{where} is not a TR in seconds: choose one from 0.1 to 10."
                )
        if self.seconds < designs.CLIP_SECONDS:
            raise InputError(
                f"{self.frames} frames at a TR of {self.tr:g} s do not hold one clip of "
                f"{designs.CLIP_SECONDS:g} s: raise --frames."
            )
        if self.runs:
            if self.conditions < 2:
                raise InputError("--conditions must be 2 or more: with one there is no question.")
            designs.count_rounds(self.design, self.conditions, self.seconds)
        if self.sites > (self.subjects + 1) // 2:
            raise InputError(
                f"--sites={self.sites} is too many for {self.subjects} subjects: give "
                f"--subjects={2 * self.sites} or more."
            )
        if self.diagnosis not in DIAGNOSES:
            raise unknown(f"--diagnosis={self.diagnosis} is unknown", DIAGNOSES)
        if self.diagnosis == "site" and self.sites < 2:
            raise InputError("--diagnosis=site needs sites that differ: give --sites=2 or more.")

    @property
    def seconds(self) -> float:
        """From the first frame of a run to the last; a little more at some TRs."""
        return self.tr * (self.frames - 1)

    @property
    def site_trs(self) -> list[float]:
        """Seconds from frame to frame at each site, to 10 ms where they are not the study's."""
        factors = [_SITE_TRS[site % len(_SITE_TRS)] for site in range(self.sites)]
        return [self.tr if factor == 1 else round(self.tr * factor, 2) for factor in factors]

    @property
    def tracks_motion(self) -> bool:
        """Whether head motion is among what the study is about, so that stores report it."""
        return self.motion > 0 or self.diagnosis != "off"

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

    def frames_at(self, tr: float) -> int:
        """Frames of a run at some TR: at least as long as runs at the study's own."""
        return self.frames if tr == self.tr else math.ceil(round(self.seconds / tr, 6)) + 1

    def rng(self, *what: str | int) -> np.random.Generator:
        """The source of randomness of one thing, independent of all others."""
        return np.random.default_rng([self.seed, zlib.crc32(repr(what).encode())])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
