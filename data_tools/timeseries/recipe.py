"""How runs become frames: the settings of a conversion, checked before anything is read."""

import dataclasses
import math
from typing import Any

from data_tools.errors import InputError, unknown
from data_tools.timeseries.denoise import check_band
from data_tools.timeseries.resampling import KINDS

CHAINS = ("vertex", "pixel")
MISSING = ("record", "ignore")
# No scanner takes a brain in 50 ms, and nobody waits longer than 20 s: other units, surely.
_TR_RANGE = (0.05, 20.0)
# Headers and sidecars round, in seconds.
_TR_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How runs become frames.

    Attributes:
      chain: 'vertex' z-scores and resamples the vertices and maps them to pixels; 'pixel' maps
        first, and the mean and standard deviation of every pixel are kept.
      kind: of resampling: 'pchip', 'cubic' or 'linear'.
      target_tr: seconds between the frames of the result; 0 keeps the run's own.
      tr: seconds between the frames of the run where its header is wrong or silent.
      missing: 'record' notes pixels whose nearest vertex is constant, and sets them to 0;
        'ignore' takes constant values for data.
      max_missing: largest share of such pixels, in [0, 1], before a run is refused.
      seconds: (start, stop) of the part of every run to take, in scan time; cut before z-scoring.
      min_frames: the fewest frames that a result may have.
      confounds: presets and columns of the run's confounds that are regressed out; see `confounds`.
      highpass, lowpass: cutoffs in Hz of a filter in time, None for none.
      drop_dummies: how many frames at the start to leave out; "auto" takes those that fMRIPrep
        marks as not yet in a steady state.
    """

    chain: str = "vertex"
    kind: str = "pchip"
    target_tr: float = 1.0
    tr: float | None = None
    missing: str = "record"
    max_missing: float = 0.25
    seconds: tuple[float, float] = (0.0, math.inf)
    min_frames: int = 16
    confounds: tuple[str, ...] = ()
    highpass: float | None = None
    lowpass: float | None = None
    drop_dummies: int | str = 0

    def __post_init__(self):
        for name, choices in (("chain", CHAINS), ("kind", KINDS), ("missing", MISSING)):
            if getattr(self, name) not in choices:
                raise unknown(f"'{getattr(self, name)}' is no {name}", choices)
        if self.tr is not None:
            check_tr(self.tr, "--tr")
        if self.target_tr:
            check_tr(self.target_tr, "--target-tr", "give it in seconds with --target-tr")
        if not 0 <= self.max_missing <= 1:
            raise InputError(f"--max-missing={self.max_missing:g} is no share: give 0 to 1.")
        if not 0 <= self.seconds[0] < self.seconds[1]:
            raise InputError("The seconds to keep are empty: give --seconds=START:STOP.")
        check_band(self.highpass, self.lowpass)

    @property
    def denoises(self) -> bool:
        """Whether anything is taken out of the time series before they are z-scored."""
        return bool(self.confounds or self.highpass or self.lowpass)

    def check_length(self, n_frames: int, tr: float, name: str) -> None:
        """Refuses a run of which fewer frames than `min_frames` are left."""
        if n_frames < self.min_frames:
            raise InputError(
                f"{name} has {n_frames} frames of {tr:g} s and a clip needs {self.min_frames}: "
                "leave it out, or lower --min-frames."
            )

    def describe(self) -> dict[str, Any]:
        """What `store.json` says of the preprocessing."""
        start, stop = self.seconds
        return {
            "chain": self.chain,
            "zscore": "population std over the run, 0 where it is below 1e-6",
            "kind": self.kind,
            "filter": None
            if self.kind == "linear"
            else "down-sampling: cheby1 order 8, 0.05 dB, 0.8/q of Nyquist, zero phase",
            "target_tr": self.target_tr or None,
            "source_tr": self.tr,
            "missing": self.missing,
            "max_missing": self.max_missing,
            "seconds": None
            if self.seconds == (0, math.inf)
            else [start, stop if math.isfinite(stop) else None],
            "min_frames": self.min_frames,
            "drop_dummies": self.drop_dummies,
            "confounds": list(self.confounds) or None,
            "highpass": self.highpass,
            "lowpass": self.lowpass,
        }


def resolve_tr(
    header: float | None, sidecar: float | None, given: float | None, name: str
) -> float:
    """The TR of a run in seconds, from what its header, its sidecar and the user say of it.

    Raises:
      InputError: nobody says it, header and sidecar disagree, or it cannot be one in seconds.
    """
    if given is None and header and sidecar and abs(header - sidecar) > _TR_TOLERANCE:
        raise InputError(
            f"{name} says a TR of {header:g} s and its sidecar or release {sidecar:g} s: give the "
            "right one with --tr."
        )
    tr = given or header or sidecar
    if not tr:
        raise InputError(f"{name} does not say its TR: give it in seconds with --tr.")
    check_tr(tr, f"The TR of {name}")
    return tr


def check_tr(tr: float, name: str, remedy: str = "give it in seconds with --tr") -> None:
    """Refuses a TR that cannot be one in seconds."""
    low, high = _TR_RANGE
    if not low <= tr <= high:
        raise InputError(f"{name} is {tr:g} s, where {low:g} to {high:g} s is possible: {remedy}.")
