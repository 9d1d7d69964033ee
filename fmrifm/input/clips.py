"""Which clips make batch k: a stateless sampler.

Batch k is a pure function of (seed, k): no shuffle buffer, nothing to save, the same on any number
of hosts, threads or workers. Letters: B clips of the global batch, C clips of a list, S sources.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError, check_choice, check_least
from data_tools.store.checks import check_onsets
from fmrifm.input.sources import Source

# Shares are met over about so many clips, up to one of each store, in draws from a list.
ROUND = 1000


@dataclasses.dataclass(frozen=True)
class Clips:
    """Where clips lie: three int64 arrays of one length.

    Attributes:
      source: place in the list of sources.
      run: place in the store's runs.
      start: first frame.
    """

    source: np.ndarray
    run: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.source.tolist(), self.run.tolist(), self.start.tolist(), strict=True)

    def __getitem__(self, index) -> "Clips":
        return Clips(self.source[index], self.run[index], self.start[index])


def usable_runs(sources: list[Source], num_frames: int, skip_short_runs: bool) -> list[Source]:
    """Drops runs that are shorter than a clip, where that is allowed."""
    usable, skipped = [], 0
    for source in sources:
        length = np.array([source.store.runs[r]["n_frames"] for r in source.runs])
        short = source.runs[length < num_frames]
        if len(short) and not skip_short_runs:
            run = source.store.runs[short[0]]
            raise InputError(
                f"Run {run['key']} of {source.store.path} has {run['n_frames']} frames, and a clip "
                f"takes {num_frames} of them: filter it out or set data.skip_short_runs=True."
            )
        skipped += len(short)
        if len(short) < len(source.runs):
            usable.append(dataclasses.replace(source, runs=source.runs[length >= num_frames]))
    if skipped:
        print(f"Skipping {skipped} runs shorter than a clip of {num_frames} frames.")
    if not usable:
        raise InputError(f"No run is as long as a clip of {num_frames} frames.")
    return usable


def list_clips(
    sources: list[Source], num_frames: int, stride: int = 0, hrf_delay: float | None = None
) -> Clips:
    """Every clip of the runs, in order: one each `stride` frames, or one an event.

    Args:
      stride: frames between starts, 0 for `num_frames`: clips side by side.
      hrf_delay: seconds; when given, clips start at int((onset + hrf_delay) / TR) of each event,
        and those past the end of the run are dropped.

    Raises:
      InputError: no run has an event that starts a whole clip.
    """
    parts = []
    for s, source in enumerate(sources):
        for r in source.runs:
            run = source.store.runs[r]
            last = run["n_frames"] - num_frames
            if hrf_delay is None:
                starts = np.arange(0, last + 1, stride or num_frames)
            else:
                starts, _ = event_starts(run, source.store.tr, num_frames, hrf_delay)
            parts.append(np.stack([np.full_like(starts, s), np.full_like(starts, r), starts]))
    table = np.concatenate(parts, axis=1)
    if not table.size:
        raise InputError("No run has an event that starts a whole clip: check the events.")
    return Clips(*table.astype(np.int64))


def event_starts(
    run: dict, tr: float, num_frames: int, hrf_delay: float
) -> tuple[np.ndarray, list[dict]]:
    """First frames of the clips of a run's events, and the events; those past the end dropped."""
    events = run.get("events") or []
    check_onsets(events, f"Run {run['key']}")
    onsets = np.array([event["onset"] for event in events], float)
    # Rounded first: 2.9999999999999996 frames are three.
    starts = np.floor(np.round((onsets + hrf_delay) / tr, 6)).astype(np.int64)
    fits = (starts >= 0) & (starts <= run["n_frames"] - num_frames)
    return starts[fits], [event for event, keep in zip(events, fits, strict=True) if keep]


def pick_evenly(clips: Clips, count: int) -> Clips:
    """At most `count` clips, evenly spaced over the list; 0 keeps all."""
    if not count or count >= len(clips):
        return clips
    return clips[np.arange(count) * len(clips) // count]


def make_sampler(
    sources: list[Source], num_frames: int, seed: int, data: ConfigDict
) -> "RandomSampler | ListSampler":
    """The sampler that `config.data` names: random, sequential or event.

    Args:
      num_frames: frames that are read for a clip, more than data.num_frames where the TR varies.
    """
    stride = data.stride or data.num_frames
    listed = {"sequential": {"stride": stride}, "event": {"hrf_delay": data.hrf_delay}}
    check_choice("data.sampling", data.sampling, ("random", *listed))
    if data.sampling == "random":
        return RandomSampler(sources, num_frames, seed, data.window, data.clips_per_window)
    if data.window or data.clips_per_window > 1:
        raise InputError(
            "data.window and data.clips_per_window are for data.sampling=random, not "
            f"{data.sampling}."
        )
    clips = list_clips(sources, num_frames, **listed[data.sampling])
    return ListSampler(sources, clips, seed)


class RandomSampler:
    """Clips drawn uniformly over the valid starts: runs in proportion to their length.

    Several clips may come from one window of a run, so that fewer frames are read for each. The
    first of them is drawn as ever; the window lies at random around it, within the run, and the
    others anywhere in the window: the ends of a run come less often then, by a third at most, and
    what is half a window away from them more often.
    """

    def __init__(
        self,
        sources: list[Source],
        num_frames: int,
        seed: int,
        window: int = 0,
        clips_per_window: int = 1,
    ):
        """
        Args:
          window: frames of a window, cut short where a run is shorter; 0 for num_frames.
          clips_per_window: clips of a batch that one window gives, rows side by side.
        """
        check_least(f"data.clips_per_window={clips_per_window}", clips_per_window, 1)
        if window and (window < num_frames or clips_per_window == 1):
            raise InputError(
                f"data.window={window} is for data.clips_per_window above 1, and holds a clip of "
                f"{num_frames} frames: change one of them."
            )
        self._sources, self._seed = sources, seed
        self._slack, self._per_window = max(window - num_frames, 0), clips_per_window
        self._ends = []
        for source in sources:
            lengths = [source.store.runs[r]["n_frames"] - num_frames + 1 for r in source.runs]
            self._ends.append(np.cumsum(lengths))
        self._share_ends = np.cumsum(shares(sources, [ends[-1] for ends in self._ends]))

    def draw(self, step: int, batch_size: int) -> Clips:
        """The whole global batch of a step; every host draws all of it and reads its rows."""
        rng = np.random.default_rng((self._seed, step))
        count = -(-batch_size // self._per_window)
        which_B = np.searchsorted(self._share_ends[:-1], rng.random(count), side="right")
        place_B = rng.random(count)
        run_B, start_B, last_B = np.empty((3, count), np.int64)
        for s, ends in enumerate(self._ends):
            rows = which_B == s
            flat = np.minimum((place_B[rows] * ends[-1]).astype(np.int64), ends[-1] - 1)
            run = np.searchsorted(ends, flat, side="right")
            run_B[rows] = self._sources[s].runs[run]
            begins = np.concatenate([[0], ends])
            start_B[rows] = flat - begins[run]
            last_B[rows] = begins[run + 1] - begins[run] - 1
        if self._per_window > 1:
            start_B = self._starts_in_windows(rng, start_B, last_B)[:batch_size]
            which_B, run_B = (np.repeat(x, self._per_window)[:batch_size] for x in (which_B, run_B))
        return Clips(which_B.astype(np.int64), run_B, start_B)

    def _starts_in_windows(
        self, rng: np.random.Generator, start_W: np.ndarray, last_W: np.ndarray
    ) -> np.ndarray:
        """Starts of all clips of windows, given the first clip of each and the last start."""
        slack_W = np.minimum(self._slack, last_W)
        before_W = rng.integers(0, slack_W, endpoint=True)
        first_W = np.clip(start_W - before_W, 0, last_W - slack_W)
        others = (len(start_W), self._per_window - 1)
        start_WxK = first_W[:, None] + rng.integers(0, slack_W[:, None], others, endpoint=True)
        return np.concatenate([start_W[:, None], start_WxK], axis=1).reshape(-1)


class ListSampler:
    """Clips of a list in shuffled order, each once an epoch of its source."""

    def __init__(self, sources: list[Source], clips: Clips, seed: int):
        self._seed = seed
        self._lists = [clips[clips.source == s] for s in range(len(sources))]
        empty = [s for s, part in enumerate(self._lists) if not len(part)]
        if empty:
            raise InputError(f"{sources[empty[0]].store.path} has no clip to draw: check events.")
        self._quota = shares(sources, [len(part) for part in self._lists]) * ROUND
        # Where a store's quota is no whole number, its rounds have one clip more or less, in turns
        # that begin anywhere: else all small stores would get their clips in the same rounds.
        self._phase = 0.999 * np.random.default_rng((seed, 3)).random(len(sources))
        self._cache: dict = {}

    def draw(self, step: int, batch_size: int) -> Clips:
        """The whole global batch of a step."""
        which_B, run_B, start_B = np.empty((3, batch_size), np.int64)
        first = step * batch_size
        turn = max(0, (first - len(self._lists)) // ROUND)  # not after the round of this slot
        done = 0
        while done < batch_size:
            begin, end = (int(self._drawn(t).sum()) for t in (turn, turn + 1))
            slot = first + done - begin
            if slot < end - begin:
                source_R, place_R = self._cached(self._round, turn)
                part = slice(slot, slot + batch_size - done)
                rows = slice(done, done + len(source_R[part]))
                which_B[rows], run_B[rows] = source_R[part], place_R[part]
                done = rows.stop
            turn += 1
        for s, clips in enumerate(self._lists):
            rows = np.flatnonzero(which_B == s)
            epoch, place = np.divmod(run_B[rows], len(clips))  # the ordinal within the source
            for e in np.unique(epoch):
                part = epoch == e
                picked = clips[self._cached(self._epoch, s, int(e))[place[part]]]
                run_B[rows[part]], start_B[rows[part]] = picked.run, picked.start
        return Clips(which_B, run_B, start_B)

    def _drawn(self, turn: int) -> np.ndarray:
        """(S,) int64: the clips of each source that all rounds before this one draw."""
        return np.floor(np.round(self._quota * turn + self._phase, 6)).astype(np.int64)

    def _round(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each slot of a round, and its ordinal among all slots of that source."""
        before, after = self._drawn(turn), self._drawn(turn + 1)
        source_R = np.repeat(np.arange(len(before)), after - before)
        np.random.default_rng((self._seed, 1, turn)).shuffle(source_R)
        place_R = np.empty(len(source_R), np.int64)
        order = np.argsort(source_R, kind="stable")
        place_R[order] = np.concatenate(
            [np.arange(*ends) for ends in zip(before, after, strict=True)]
        )
        return source_R, place_R

    def _epoch(self, source: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self._seed, 2, source, epoch))
        return rng.permutation(len(self._lists[source]))

    def _cached(self, make, *key: int) -> np.ndarray:
        """Permutations are shared by the steps that need them; only a few are kept."""
        name = (make.__name__, *key)
        value = self._cache.get(name)
        if value is None:
            if len(self._cache) > 16:
                self._cache = {}
            value = self._cache[name] = make(*key)
        return value


def shares(sources: list[Source], sizes: list[int]) -> np.ndarray:
    """(S,) float64 that sum to one: the given shares, or in proportion to `sizes`."""
    weights = [
        size if source.share is None else source.share
        for source, size in zip(sources, sizes, strict=True)
    ]
    return np.array(weights, np.float64) / np.sum(weights)
