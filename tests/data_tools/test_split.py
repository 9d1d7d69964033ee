"""Splits by subject: nobody in two lists, families whole, the same lists every time."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.split import main, parse_shares, split_subjects
from data_tools.store.selection import group_subjects, open_selection
from tests.data_tools.store.small_stores import write_small_store

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@st.composite
def run_tables(draw):
    """Runs of up to 60 people, some in families, some told of more than one family."""
    n_subjects = draw(st.integers(3, 60))
    n_families = draw(st.integers(1, 40))
    family = st.one_of(st.none(), st.just(""), st.integers(0, n_families))
    families = [[0], *(draw(st.lists(family, min_size=1, max_size=3)) for _ in range(n_subjects))]
    return [
        {"key": f"{subject}-{run}", "dataset": "toy", "subject": f"{subject:02d}", "family": value}
        for subject, values in enumerate(families)
        for run, value in enumerate(values)
    ]


@settings(deadline=None, max_examples=150)
@given(run_tables(), st.integers(0, 3), st.sampled_from([None, "family"]), st.randoms())
def test_laws_of_splitting(runs, seed, groups, random):
    together = group_subjects(runs, groups)
    if len(together) < len(SHARES):
        with pytest.raises(InputError, match="group of subjects each"):
            split_subjects(runs, SHARES, seed=seed, groups=groups)
        return
    splits = split_subjects(runs, SHARES, seed=seed, groups=groups)
    everyone = sorted({run["subject"] for run in runs})
    # Complete and disjoint.
    assert sorted(subject for labels in splits.values() for subject in labels) == everyone
    assert all(labels and labels == sorted(labels) for labels in splits.values())
    # Whoever is told of one family is in one split.
    place = {subject: name for name, labels in splits.items() for subject in labels}
    if groups:
        members = {}
        for run in runs:
            if run["family"] not in (None, ""):
                members.setdefault(run["family"], set()).add(place[run["subject"]])
        assert all(len(names) == 1 for names in members.values())
    # The order in which runs come means nothing.
    shuffled = random.sample(runs, len(runs))
    assert split_subjects(shuffled, SHARES, seed=seed, groups=groups) == splits
    # Shares are met within one group.
    largest = max(map(len, together))
    due = {name: share * len(everyone) for name, share in SHARES.items()}
    if min(due.values()) >= largest:
        for name, labels in splits.items():
            assert abs(len(labels) - due[name]) < largest


def test_families_link_through_others():
    """A is told of families 1 and 2, so those of both are kin; families of other data are not."""
    runs = [
        {"key": f"{i}", "dataset": dataset, "subject": subject, "family": family}
        for i, (dataset, subject, family) in enumerate(
            [("x", "a", 1), ("x", "a", 2), ("x", "b", 2), ("x", "c", 1), ("x", "d", 3)]
            + [("y", "e", 3), ("y", "f", None), ("y", "g", "")]
        )
    ]
    groups = [[label for _, label in group] for group in group_subjects(runs, "family")]
    assert groups == [["a", "b", "c"], ["d"], ["e"], ["f"], ["g"]]


def test_seeds_draw_different_people_equally_often():
    runs = [{"key": s, "dataset": "", "subject": s} for s in "abcdefghij"]
    tests = [split_subjects(runs, SHARES, seed=seed)["test"] for seed in range(400)]
    counts = [sum(labels == [subject] for labels in tests) for subject in "abcdefghij"]
    assert sum(counts) == 400 and min(counts) > 20 and max(counts) < 65
    # The lists of seed 0, which must never change: models are tested on them.
    assert split_subjects(runs, SHARES) == {
        "train": ["a", "d", "e", "f", "g", "h", "i", "j"],
        "val": ["b"],
        "test": ["c"],
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two sessions of ten people in two stores; the last two have no family."""
    root = tmp_path_factory.mktemp("stores")
    for session in ("one", "two"):
        runs = {
            f"sub-{i}_ses-{session}": {
                **{"dataset": "toy", "subject": f"{i}", "session": session, "task": "rest"},
                **({"family": f"F{i // 2}"} if i < 8 else {}),
            }
            for i in range(10)
        }
        write_small_store(root / session, runs, restricted=["family"])
    return root


def test_command_leaves_lists_that_filter_stores(stores, tmp_path, capsys):
    arguments = ["--shares=train=0.6,test=0.4", "--groups=family", "--seed=3"]
    one, two = str(stores / "one"), str(stores / "two")
    main([one, two, f"--output={tmp_path / 'a'}", *arguments])
    said = capsys.readouterr().out
    main([two, one, f"--output={tmp_path / 'b'}", *arguments])
    for name in ("train.txt", "test.txt", "split.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "of its own: 2." in said and "F0" not in said
    text = (tmp_path / "a" / "split.json").read_text()
    assert str(tmp_path) not in text and str(stores) not in text and "F0" not in text
    description = json.loads(text)
    assert [store["name"] for store in description["stores"]] == ["one", "two"]
    subjects = {}
    for name, count in description["splits"].items():
        parts = [open_selection(f"{s}?subject={tmp_path / 'a' / name}.txt") for s in (one, two)]
        lines = [line for part in parts for line in part.lines]
        subjects[name] = {line["subject"] for line in lines}
        assert count["subjects"] == len(subjects[name]) and count["runs"] == len(lines)
        assert count["frames"] == sum(line["n_frames"] for line in lines)
    assert not subjects["train"] & subjects["test"]
    assert len(subjects["train"] | subjects["test"]) == 10
    assert sum(count["groups"] for count in description["splits"].values()) == 6


def test_bad_input_is_one_sentence(stores, tmp_path, capsys):
    other = {"sub-1": {"dataset": "other", "subject": "1"}}
    write_small_store(tmp_path / "other", other)
    write_small_store(tmp_path / "nameless", {"run": {}})
    write_small_store(tmp_path / "spaced", {"run": {"subject": "a b"}})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    one, out = str(stores / "one"), f"--output={tmp_path / 'out'}"
    for words, arguments in {
        "'other' and 'toy'": [one, str(tmp_path / "other"), out],
        "STORE?subject=?*": [one, str(tmp_path / "nameless"), out],
        "hold spaces": [str(tmp_path / "spaced"), out],
        "given twice": [one, one, out],
        "exists already": [one, f"--output={tmp_path / 'full'}"],
        "'colour'": [one, out, "--groups=colour"],
        "number of groups is 1": [f"{one}?subject=3", out],
        "sum to 0.9": [one, out, "--shares=a=0.5,b=0.4"],
        "'b:0.5'": [one, out, "--shares=a=0.5,b:0.5"],
        "'a=0.5'": [one, out, "--shares=a=0.5,a=0.5"],
        "'../a=1'": [one, out, "--shares=../a=1"],
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and words in error
        assert error.startswith("error: ") and error.endswith(".\n") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_shares_are_parsed():
    assert parse_shares("train=.8, test-1=0.2") == {"train": 0.8, "test-1": 0.2}
