"""Samples of every unit: their clips lie in their runs, and their labels are theirs."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.input.sources import Source, parse_sources
from fmrifm.probe.samples.labels import Binning, parse_target
from fmrifm.probe.samples.samples import UNITS, make_samples
from fmrifm.probe.samples.splits import join_table
from tests.data_tools.store.small_stores import small_geometry, write_small_store


def run_fields(n_frames, subject, session="1", **more):
    frames = np.zeros((n_frames, small_geometry().n_patches, small_geometry().patch_dim), "f2")
    who = {"dataset": "toy", "subject": subject, "session": session}
    return who | {"frames_TxNxP": frames} | more


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two people with two runs in each of two sessions, and one whose age nobody knows."""
    runs = {}
    for subject, age in (("01", 30), ("02", 52.5)):
        for session, mood in (("1", "low"), ("2", "high")):
            for run in "ab":
                events = [
                    {"onset": t, "trial_type": kind, "x": t} for t, kind in ((0.5, "p"), (3.0, "q"))
                ]
                runs[f"sub-{subject}_ses-{session}_run-{run}"] = run_fields(
                    {"a": 9, "b": 3}[run], subject, session,
                    age=age, mood=mood, note="b?" if run == "b" else "", events=events,
                )  # fmt: skip
    runs["sub-03_ses-1_run-a"] = run_fields(8, "03", age="")
    store = write_small_store(tmp_path_factory.mktemp("stores") / "store", runs)
    return parse_sources(str(store.path))


def make(sources, text, unit, **more):
    return make_samples(sources, parse_target(text), unit=unit, num_frames=4, **more)


def clips_of(samples, s):
    part = slice(samples.first_S1[s], samples.first_S1[s + 1])
    clips = samples.clips[part]
    return [*zip(clips.run.tolist(), clips.start.tolist(), samples.n_frames_C[part], strict=True)]


def test_every_unit_has_its_clips_and_keys(sources):
    subjects = make(sources, "run:age", "subject")
    assert subjects.keys.tolist() == subjects.subjects.tolist() == ["toy/01", "toy/02"]
    assert subjects.labels.tolist() == ["30", "52.5"]
    # Windows of each run, a run of 3 frames as one clip of them; of 9 frames one is left over.
    assert clips_of(subjects, 1) == [
        (4, 0, 4), (4, 4, 4), (5, 0, 3), (6, 0, 4), (6, 4, 4), (7, 0, 3)
    ]  # fmt: skip
    assert (subjects.n_unlabelled, subjects.n_dropped_frames) == (1, 4)
    sessions = make(sources, "run:mood", "session")
    assert sessions.keys.tolist() == ["toy/01/1", "toy/01/2", "toy/02/1", "toy/02/2"]
    assert sessions.labels.tolist() == ["low", "high"] * 2
    assert clips_of(sessions, 1) == [(2, 0, 4), (2, 4, 4), (3, 0, 3)]
    runs = make(sources, "run:subject", "run")
    assert runs.keys[[0, 8]].tolist() == ["sub-01_ses-1_run-a", "sub-03_ses-1_run-a"]
    assert runs.labels.tolist() == ["01"] * 4 + ["02"] * 4 + ["03"]
    clips = make(sources, "run:subject", "clip")
    assert len(clips) == len(clips.clips) == 4 * 3 + 2 and clips.n_dropped_frames == 4
    assert clips.starts[:4].tolist() == [0, 4, 0, 0] and clips.labels[-1] == "03"


def test_events_label_clips_and_nothing_longer(sources):
    samples = make(sources, "event:trial_type", "clip", hrf_delay=1.5)
    assert samples.labels.tolist() == ["p", "q"] * 4 and samples.starts.tolist() == [2, 4] * 4
    assert samples.reversed_C is None and (samples.n_frames_C == 4).all()
    for text in ("event:trial_type", "time:arrow"):
        for unit in UNITS[1:]:
            with pytest.raises(InputError, match="belongs to a clip: set unit=clip"):
                make(sources, text, unit)
    with pytest.raises(InputError, match="No event of .*'colour'"):
        make(sources, "event:colour", "clip")


def test_arrow_of_time_has_each_clip_in_both_directions(sources):
    samples = make(sources, "time:arrow", "clip")
    plain = make(sources, "run:subject", "clip")
    assert samples.labels.tolist() == ["forward", "reversed"] * len(plain)
    assert samples.reversed_C.tolist() == [False, True] * len(plain)
    assert np.array_equal(samples.starts, np.repeat(plain.starts, 2))
    assert samples.n_dropped_frames == plain.n_dropped_frames
    with pytest.raises(InputError, match="task=classification"):
        make(sources, "time:arrow", "clip", task="regression")


def test_numbers_are_float32_and_may_be_cut(sources, tmp_path):
    samples = make(sources, "run:age", "session", task="regression")
    assert samples.labels.tolist() == [[30]] * 2 + [[52.5]] * 2
    assert samples.labels.dtype == np.float32 and samples.n_unlabelled == 1
    bins = Binning(quantiles=2).fit(samples.labels)
    assert bins.cut(samples.labels).tolist() == ["<41.25"] * 2 + [">=41.25"] * 2
    with pytest.raises(InputError, match="sub-01_ses-1_run-a has 'low' .* no number"):
        make(sources, "run:mood", "run", task="regression")
    np.save(tmp_path / "a.npy", np.eye(4)[:, :3])
    samples = make(sources, f"array:{tmp_path / 'a.npy'}:x", "clip", task="regression")
    # Event at 3 s: row 3; that at 0.5 s is no row. A field of no event is one of the runs.
    assert samples.labels.tolist() == [[0, 0, 0]] * 4 and samples.n_unlabelled == 4
    samples = make(sources, f"array:{tmp_path / 'a.npy'}:session", "session", task="regression")
    assert samples.labels[:2].tolist() == [[0, 1, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="set task=regression"):
        make(sources, f"array:{tmp_path / 'a.npy'}:session", "session")


def test_tables_label_whom_they_name(sources, tmp_path):
    (tmp_path / "a.csv").write_text("subject,iq\nsub-02,110\n7,100\n")
    samples = make(sources, f"table:{tmp_path / 'a.csv'}:iq", "subject")
    assert (samples.keys.tolist(), samples.n_unlabelled) == (["toy/02"], 2)
    (tmp_path / "a.csv").write_text("subject,iq\n02,about 110\n")
    with pytest.raises(InputError, match="sub-02_ses-1_run-a has a value .* no number"):
        make(sources, f"table:{tmp_path / 'a.csv'}:iq", "subject", task="regression")
    (tmp_path / "a.csv").write_text("subject,iq\n2,110\n")
    with pytest.raises(InputError, match="as the store has them"):
        make(sources, f"table:{tmp_path / 'a.csv'}:iq", "subject")


def test_tables_find_people_however_they_are_written(sources, tmp_path, capsys):
    def joined(text):
        (tmp_path / "a.csv").write_text(f"subject,iq\n{text}")
        target = join_table(sources, parse_target(f"table:{tmp_path / 'a.csv'}:iq"))
        return make_samples(sources, target, unit="subject", num_frames=4)

    samples = joined("1.0,110\nSUB-002,95\n")
    assert (samples.keys.tolist(), samples.labels.tolist()) == (["toy/01", "toy/02"], ["110", "95"])
    assert "1 of 3 subjects have no row in table:" in capsys.readouterr().out
    # Whoever has a row without a value is not lost.
    assert joined("1,110\n2,n/a\n3,NA\n").n_unlabelled == 2
    assert not capsys.readouterr().out
    with pytest.raises(
        InputError, match="2 of 3 subjects have no row in .*, such as 02, 03: write"
    ):
        joined("01,110\n20,95\n")
    with pytest.raises(InputError, match="Lines 2 and 3 of .* disagree in 'iq'"):
        joined("01,110\nsub-1,95\n")


def test_runs_that_disagree_and_choices_that_are_none_are_named(sources, tmp_path):
    with pytest.raises(InputError, match="subject toy/01 disagree in run:mood"):
        make(sources, "run:mood", "subject")
    # What only some of the runs say holds for all of them.
    assert make(sources, "run:note", "session").labels.tolist() == ["b?"] * 4
    with pytest.raises(InputError, match="No run of .*'colour'.*choose one of age, "):
        make(sources, "run:colour", "run")
    with pytest.raises(InputError, match="unit has no 'year'"):
        make(sources, "run:age", "year")
    with pytest.raises(InputError, match="task has no 'guess'"):
        make(sources, "run:age", "run", task="guess")
    runs = {"a": run_fields(4, "01"), "b": run_fields(4, "01", dataset="other")}
    other = parse_sources(str(write_small_store(tmp_path / "two", runs).path))
    with pytest.raises(InputError, match="toy/01 and other/01 are two people"):
        make(other, "run:subject", "run")
    nobody = write_small_store(tmp_path / "nobody", {"a": run_fields(4, "", age=3)})
    with pytest.raises(InputError, match="Run a has no subject"):
        make(parse_sources(str(nobody.path)), "run:age", "subject")


def fake_sources(lengths):
    """Sources of a run table alone; nobody reads frames here."""
    lines = [
        {"key": f"run-{i:03d}", "dataset": "toy", "subject": f"{i % 3}", "session": f"{i % 2}",
         "n_frames": n, "kind": f"{i % 3}"}
        for i, n in enumerate(lengths)
    ]  # fmt: skip
    store = SimpleNamespace(runs=lines, tr=1.0, restricted=frozenset(), path="fake")
    half = len(lines) // 2 + 1
    return [Source(store, np.arange(half)), Source(store, np.arange(half, len(lines)))]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=12),
    num_frames=st.integers(1, 16),
    unit=st.sampled_from(UNITS),
)
def test_windows_tile_the_runs_and_samples_keep_their_clips(lengths, num_frames, unit):
    sources = fake_sources(lengths)
    samples = make_samples(sources, parse_target("run:kind"), unit=unit, num_frames=num_frames)
    covered = [np.zeros(n, int) for n in lengths]
    clips = samples.clips
    for s, run, start, n in zip(clips.source, clips.run, clips.start, samples.n_frames_C,
                                strict=True):  # fmt: skip
        assert run in sources[s].runs and start + n <= lengths[run]
        assert n == min(num_frames, lengths[run])
        covered[run][start : start + n] += 1
    tails = [n % num_frames if n > num_frames else 0 for n in lengths]
    for frames, tail in zip(covered, tails, strict=True):
        assert frames.tolist() == [1] * (len(frames) - tail) + [0] * tail
    assert samples.n_dropped_frames == sum(tails)

    assert len(clips) == samples.first_S1[-1] == len(samples.n_frames_C)
    for s in range(len(samples)):
        own = clips_of(samples, s)
        assert samples.starts[s] == own[0][1]
        for run, _, _ in own:
            assert samples.labels[s] == sources[0].store.runs[run]["kind"]
