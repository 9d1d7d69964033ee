"""What stores share is counted, what they must not share refused, what is restricted not shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.overlap import check_overlap, main, refuse_copies
from data_tools.store.selection import open_selection
from tests.data_tools.store.small_stores import write_small_store

ROOT = Path(__file__).parents[2]


def images(*numbers):
    events = [{"onset": 3.0 * i, "duration": 3.0, "nsd_id": n} for i, n in enumerate(numbers)]
    return {"events": [*events, {"onset": 0.0, "duration": 1.0, "nsd_id": None}]}


def person(subject, session="1", **fields):
    return {"dataset": "toy", "subject": subject, "session": session} | fields


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    train = {
        "a1": person("a", family="Fx", **images(0, 1, 2)),
        "a2": person("a", "2", family="Fx"),
        "b1": person("b", family="Fy", **images(3)),
        "c1": person("c"),
    }
    test = {
        "b2": person("b", "2", family="Fy", **images(2, 3, 4)),
        "d1": person("d", family="Fx"),
    }
    write_small_store(root / "train", train)
    write_small_store(root / "test", test)
    write_small_store(root / "restricted", test, restricted=["subject"])
    write_small_store(root / "away", {"x": person("a") | {"dataset": "elsewhere"}})
    write_small_store(root / "nameless", {"x": {}})
    return root


def sets(root, *names):
    return {name: [open_selection(str(root / name))] for name in names}


def counts(overlap):
    return overlap.shared, overlap.values, overlap.runs, overlap.unknown, overlap.alike


def test_counts_say_who_shares_what(stores):
    found = check_overlap(
        sets(stores, "train", "test", "away"), [], ["subject", "family", "session", "nsd_id"]
    )
    table = {(o.a, o.b, o.field): counts(o) for o in found}
    assert table["train", "test", "subject"] == (1, (3, 2), (1, 1), (0, 0), 0)
    # The kin of a is d: nobody is in both stores, but the family is.
    assert table["train", "test", "family"] == (2, (2, 2), (3, 2), (1, 0), 0)
    # Both have sessions 1 and 2, but of different people.
    assert table["train", "test", "session"] == (0, (4, 2), (0, 0), (0, 0), 0)
    # Images are the same whoever sees them; 0 is an image and null is none.
    assert table["train", "test", "nsd_id"] == (2, (4, 3), (2, 1), (2, 1), 0)
    # Subject a of another dataset is somebody else, or so the names say.
    assert table["train", "away", "subject"] == (0, (3, 1), (0, 0), (0, 0), 1)
    assert [o.field for o in found[:4]] == ["subject", "family", "session", "nsd_id"]
    assert len(found) == 12


def test_refusal_names_a_few_unless_restricted(stores):
    with pytest.raises(InputError, match=r"train and test share 1 value of 'subject' \(toy/b\)"):
        check_overlap(sets(stores, "train", "test"), ["subject"])
    with pytest.raises(InputError, match=r"share 1 value of 'subject': leave"):
        check_overlap(sets(stores, "train", "restricted"), ["subject"])
    with pytest.raises(InputError, match=r"share 2 values of 'family': leave"):
        check_overlap(sets(stores, "train", "test"), ["family"])
    assert not any(
        overlap.examples
        for overlap in check_overlap(
            sets(stores, "train", "restricted"), [], ["subject", "session", "family"]
        )
    )
    both = sets(stores, "train", "test") | {"c": [open_selection(f"{stores / 'train'}?subject=c")]}
    with pytest.raises(InputError, match=r"\(toy/b\), one of 2 such overlaps"):
        check_overlap(both, ["subject"])


def test_what_nobody_knows_is_not_called_clean(stores):
    with pytest.raises(InputError, match="No run of nameless has a 'subject'"):
        check_overlap(sets(stores, "train", "nameless"), ["subject"])
    with pytest.raises(InputError, match="No run of away has a 'family'"):
        check_overlap(sets(stores, "train", "away"), ["family"])
    with pytest.raises(InputError, match="'colour': choose one of .*nsd_id"):
        check_overlap(sets(stores, "train", "test"), ["subject"], ["colour"])


def test_people_are_the_same_however_they_are_written(tmp_path, capsys):
    write_small_store(tmp_path / "a", {"x": person("sub-01"), "y": person("anna", family="F")})
    write_small_store(tmp_path / "b", {"v": person("1"), "w": person("Anna", family="F")})
    found = check_overlap(sets(tmp_path, "a", "b"), [], ["subject", "session", "family"])
    assert [(o.shared, o.values) for o in found] == [(1, (2, 2)), (1, (2, 2)), (1, (1, 1))]
    assert (found[0].examples, found[0].twins) == (("toy/1 or sub-01",), ("toy/anna and toy/Anna",))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "a"), str(tmp_path / "b")])
    said = capsys.readouterr()
    assert "differ in case only, such as toy/anna and toy/Anna" in said.out
    assert "share 1 value of 'subject' (toy/1 or sub-01)" in said.err


def test_equal_frames_are_shared_whatever_they_are_called(stores, tmp_path):
    twice = {"frames_TxNxP": open_selection(str(stores / "test")).store.read(0, 0, 3)}
    write_small_store(tmp_path / "a", {"x": person("7") | twice, "y": person("8")})
    write_small_store(tmp_path / "b", {"z": person("9") | twice})
    with pytest.raises(InputError, match=r"a and b share the frames of 1 run \(x and z\)"):
        check_overlap(sets(tmp_path, "a", "b"), ["subject"])
    (o,) = check_overlap(sets(tmp_path, "a", "b"), [])
    assert (o.field, counts(o)) == ("frames", (1, (2, 1), (1, 1), (0, 0), 0))
    both = [open_selection(str(tmp_path / name)) for name in "ab"]
    with pytest.raises(InputError, match="Runs x and z of two people have equal frames"):
        refuse_copies(both)
    refuse_copies(both[:1])


def test_command(stores):
    """Through the shell: counts of a pair of filtered sets, then a refusal after its table."""
    command = [sys.executable, "-m", "data_tools.overlap"]
    train = [f"train={stores / 'train'}?subject=a", f"train={stores / 'train'}?subject=c"]
    fine = subprocess.run(
        [*command, *train, f"test={stores / 'test'}", "--count=family,nsd_id"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert fine.returncode == 0, fine.stderr
    rows = [line.split() for line in fine.stdout.splitlines()]
    assert ["train", "test", "subject", "0", "2", "2", "0", "0", "0", "0"] in rows
    assert ["train", "test", "family", "1", "1", "2", "2", "1", "1", "0"] in rows
    assert ["train", "test", "nsd_id", "1", "3", "3", "1", "1", "3", "0"] in rows
    bad = subprocess.run(
        [*command, str(stores / "train"), str(stores / "test"), "--refuse=family,subject"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1
    assert "share 2 values of 'family', one of 2 such overlaps:" in bad.stderr
    assert "Fx" not in bad.stdout + bad.stderr and len(bad.stdout.splitlines()) > 2


def test_bad_input_is_one_sentence(stores, capsys):
    train, test = str(stores / "train"), str(stores / "test")
    for words, arguments in {
        "two stores or more": [train],
        "given twice": [train, train],
        "/nothing": [train, f"{stores}/nothing"],
        "loosen the filter": [train, f"{test}?subject=z"],
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 1 and words in error
        assert error.startswith("error: ") and error.endswith(".\n") and error.count("\n") == 1
