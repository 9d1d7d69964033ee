"""Experimental designs: when which condition is shown, and the response of the blood to it."""

import dataclasses
import math

import numpy as np

from data_tools.errors import InputError

CLIP_SECONDS = 16.0  # an event is followed by at least one clip of 16 frames at 1 s
STEP = 0.1  # seconds, the fine grid on which responses are convolved

CONDITION_NAMES = (
    *("faces", "places", "tools", "bodies", "story", "math", "hand", "foot"),
    *("tongue", "motion", "music", "memory"),
)


@dataclasses.dataclass(frozen=True)
class Design:
    """Timing of a task in seconds.

    Attributes:
      duration: shortest and longest duration of a presentation.
      gap: shortest pause between two presentations.
      lead: shortest pause before the first.
    """

    duration: tuple[float, float]
    gap: float
    lead: float = 6.0

    @property
    def room(self) -> float:
        """Seconds that one presentation and the pause after it may need."""
        return self.duration[1] + self.gap


# Blocks fill most of a 16 s clip from their onset on. Events are slow enough for each to have its
# own peak, 5 s after its onset, but a clip holds the beginning of the next one too.
DESIGNS = {
    "block": Design(duration=(12.0, 16.0), gap=6.0),
    "event": Design(duration=(3.0, 3.0), gap=5.0),
}


def condition_names(n_conditions: int) -> list[str]:
    """The `trial_type` of each condition."""
    more = [f"condition{i + 1}" for i in range(len(CONDITION_NAMES), n_conditions)]
    return [*CONDITION_NAMES, *more][:n_conditions]


def count_rounds(design: Design, n_conditions: int, seconds: float) -> int:
    """How often every condition can be shown in a run of so many seconds."""
    # The last clip must end inside the run, however short the last presentation is.
    tail = max(0.0, CLIP_SECONDS - design.room)
    rounds = int((seconds - design.lead - tail) // (design.room * n_conditions))
    if rounds < 1:
        needed = math.ceil(design.lead + tail + design.room * n_conditions)
        raise InputError(
            f"A run of {seconds:g} s is too short to show each of {n_conditions} conditions once: "
            f"it takes {needed} s, so raise --frames or --tr, or lower --conditions."
        )
    return rounds


def draw_events(
    rng: np.random.Generator, design: Design, names: list[str], seconds: float
) -> list[dict]:
    """Presentations of one run: every condition equally often, in random order, with jitter.

    Order, durations and pauses are drawn independently of each other, so that neither the time in
    the run nor the length of a presentation tells the condition. `seconds` last from the first
    frame of the run to the last. Returns BIDS events: onset and duration in seconds, rounded to 0.1
    s, and trial_type.
    """
    rounds = count_rounds(design, len(names), seconds)
    order = rng.permutation(np.tile(names, rounds))
    durations = rng.uniform(*design.duration, len(order))
    tail = max(design.gap, CLIP_SECONDS - durations[-1])
    slack = seconds - design.lead - tail - durations.sum() - design.gap * (len(order) - 1)
    # The time left over is shared out at random among the pauses, the last one included.
    extra = slack * rng.dirichlet(np.ones(len(order) + 1))[:-1]
    onsets = design.lead + np.cumsum(extra)
    onsets[1:] += np.cumsum(durations[:-1] + design.gap)
    # Rounding down never moves the last clip past the end.
    return [
        {
            "onset": math.floor(onset * 10) / 10,
            "duration": math.floor(duration * 10) / 10,
            "trial_type": str(name),
        }
        for onset, duration, name in zip(onsets, durations, order, strict=True)
    ]


def haemodynamic_response(seconds: np.ndarray) -> np.ndarray:
    """The canonical double-gamma response at given times after a short stimulus.

    The difference of two gamma densities of shapes 6 and 16 and scale 1 s, the second weighing a
    sixth: SPM's canonical response with its default parameters (Friston et al., Statistical
    Parametric Mapping, 2007, ch. 14). It peaks after 5 s and undershoots after 15.
    """
    t = np.maximum(seconds, 0.0)
    return t**5 * np.exp(-t) / math.factorial(5) - t**15 * np.exp(-t) / math.factorial(15) / 6


def evoked_responses(
    events: list[dict], gains: np.ndarray, names: list[str], tr: float, n_frames: int, delay: float
) -> np.ndarray:
    """Blood response to each condition: its presentations convolved with the canonical response.

    Args:
      events: BIDS events, each as strong as its number in `gains`.
      names: `trial_type` of each condition.
      tr, n_frames: seconds from frame to frame, and number T of frames.
      delay: seconds by which this brain's response comes late.

    Returns:
      (T, conditions) float32, 1 where a presentation of gain 1 has lasted for long.
    """
    n_steps = math.ceil(n_frames * tr / STEP) + 1
    shown = np.zeros((n_steps, len(names)))
    for event, gain in zip(events, gains, strict=True):
        start = event["onset"] + delay
        first, last = round(start / STEP), round((start + event["duration"]) / STEP)
        shown[max(0, first) : last, names.index(event["trial_type"])] = gain
    kernel = haemodynamic_response(np.arange(0.0, 32.0, STEP))
    kernel /= kernel.sum()
    frames = np.rint(np.arange(n_frames) * tr / STEP).astype(int)
    response = [np.convolve(column, kernel)[frames] for column in shown.T]
    return np.stack(response, axis=1).astype(np.float32)
