"""The sampler: a pure function of (seed, step) with the right chances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.input.clips import (
    Clips,
    ListSampler,
    RandomSampler,
    list_clips,
    pick_evenly,
    usable_runs,
)
from fmrifm.input.sources import Source, parse_sources
from tests.conftest import write_toy_store

FRAMES = 16


def table(clips):
    return np.stack([clips.source, clips.run, clips.start], 1)


def test_random_clips_are_uniform_over_starts(tmp_path):
    long = write_toy_store(tmp_path / "long", seed=0, subjects=1, frames=65)
    short = write_toy_store(tmp_path / "short", seed=0, subjects=2, frames=20)
    sources = parse_sources(f"{long},{short}")
    clips = RandomSampler(sources, FRAMES, seed=3).draw(step=0, batch_size=60_000)
    drawn, count = np.unique(table(clips), axis=0, return_counts=True)
    assert len(drawn) == 50 + 2 * 5  # every valid start of every run, and no other
    assert np.all(np.abs(count - 1000) < 5 * np.sqrt(1000))


def test_clips_of_a_window_lie_in_it(tmp_path):
    long = write_toy_store(tmp_path / "long", seed=0, subjects=2, frames=100)
    short = write_toy_store(tmp_path / "short", seed=0, subjects=2, frames=20)
    sources = parse_sources(f"{long},{short}")
    drawn = RandomSampler(sources, FRAMES, 3, window=32, clips_per_window=4).draw(0, 40_002)
    plain = RandomSampler(sources, FRAMES, 3).draw(0, 10_001)
    windows = table(drawn)[:40_000].reshape(-1, 4, 3)
    assert len(drawn) == 40_002 and np.all(windows[:, :, :2] == windows[:, :1, :2])
    assert np.all(np.ptp(windows[:, :, 2], axis=1) <= 32 - FRAMES)
    ends = np.array([100, 20])[windows[:, :, 0]] - FRAMES
    assert np.all((windows[:, :, 2] >= 0) & (windows[:, :, 2] <= ends))
    # The first of each keeps its chances, and the others nearly: no window is at an edge only.
    np.testing.assert_array_equal(windows[:, 0], table(plain)[:10_000])
    of_long = windows[windows[:, 0, 0] == 0][:, 1:, 2].reshape(-1)
    count = np.bincount(of_long, minlength=85)
    assert len(count) == 85 and 0.4 < count.min() / count.mean() and count.max() < 2 * count.mean()
    # Without a window its clips are one clip, of which other parts are masked.
    same = table(RandomSampler(sources, FRAMES, 3, clips_per_window=2).draw(0, 8))
    np.testing.assert_array_equal(same[::2], same[1::2])
    for wrong in ({"window": 8, "clips_per_window": 2}, {"window": 32}, {"clips_per_window": 0}):
        with pytest.raises(InputError, match="data.(window|clips_per_window)="):
            RandomSampler(sources, FRAMES, 3, **wrong)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 10**7), share=st.floats(0.01, 0.99))
def test_batches_depend_on_seed_and_step_alone(stores, seed, step, share):
    text = f"{stores['train']}@{share:.3f},{stores['eval']}@{1 - share:.3f}"
    first, again = (RandomSampler(parse_sources(text), FRAMES, seed) for _ in range(2))
    again.draw(step + 1, 32)  # whatever was drawn before
    np.testing.assert_array_equal(table(first.draw(step, 32)), table(again.draw(step, 32)))
    assert not np.array_equal(table(first.draw(step, 32)), table(first.draw(step + 1, 32)))


def test_listed_clips_come_once_an_epoch_and_in_their_shares(stores):
    sources = parse_sources(f"{stores['train']}@0.75,{stores['eval']}@0.25")
    clips = list_clips(sources, FRAMES, stride=4)
    sampler = ListSampler(sources, clips, seed=1)
    stream = np.concatenate([table(sampler.draw(step, 50)) for step in range(80)])
    assert np.bincount(stream[:, 0]).tolist() == [3000, 1000]
    for s in range(2):
        wanted = np.unique(table(clips[clips.source == s]), axis=0)
        mine = stream[stream[:, 0] == s]
        for epoch in range(len(mine) // len(wanted)):
            part = mine[epoch * len(wanted) : (epoch + 1) * len(wanted)]
            np.testing.assert_array_equal(np.unique(part, axis=0), wanted)
    np.testing.assert_array_equal(
        table(ListSampler(sources, clips, seed=1).draw(41, 50)), stream[41 * 50 : 42 * 50]
    )


@pytest.mark.parametrize(
    "sizes, shares",
    [([40, 100_000], None), ([7, 7], [0.0004, 0.9996]), ([3] * 1500, None), ([5], None)],
)
def test_every_store_of_a_list_is_drawn_by_its_share(sizes, shares):
    sources = [Source(None, None, share) for share in shares or [None] * len(sizes)]
    source = np.repeat(np.arange(len(sizes)), sizes)
    clips = Clips(source, np.zeros_like(source), np.arange(len(source)))
    sampler, n, batch = ListSampler(sources, clips, seed=2), 40, 500
    drawn = [sampler.draw(step, batch) for step in range(n)]
    count = np.bincount(np.concatenate([some.source for some in drawn]), minlength=len(sizes))
    wanted = np.array(shares or sizes) / np.sum(shares or sizes) * n * batch
    assert np.abs(count - wanted).max() <= 1.5  # the last round may be cut anywhere
    assert all((source[some.start] == some.source).all() for some in drawn)
    again = ListSampler(sources, clips, seed=2).draw(n - 1, batch)
    np.testing.assert_array_equal(table(again), table(drawn[-1]))


def test_event_clips_start_at_onset_plus_delay(stores):
    sources = parse_sources(str(stores["eval"]))
    clips = list_clips(sources, FRAMES, hrf_delay=4.0)
    # onsets 1.5, 21.5, 41.5 s: starts 5, 25 and 45, the last one past frame 44
    assert clips.start[clips.run == 0].tolist() == [5, 25]


def test_evaluation_picks_spread_over_the_list(stores):
    clips = list_clips(parse_sources(str(stores["train"])), FRAMES)
    assert len(clips) == 15 and len(pick_evenly(clips, 0)) == 15
    assert len(set(pick_evenly(clips, 5).run)) == 5


def test_short_runs_are_refused_or_skipped(stores, tmp_path, capsys):
    short = write_toy_store(tmp_path / "short", seed=0, subjects=1, frames=10)
    sources = parse_sources(f"{short},{stores['train']}")
    with pytest.raises(InputError, match="sub-00_run-1 .* 10 frames.*skip_short_runs"):
        usable_runs(sources, FRAMES, skip_short_runs=False)
    assert len(usable_runs(sources, FRAMES, skip_short_runs=True)) == 1
    with pytest.raises(InputError, match="No run"):
        usable_runs(sources[:1], FRAMES, skip_short_runs=True)
