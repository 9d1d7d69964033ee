"""One person may be written in many ways, and two people may look alike."""

import pytest

from data_tools.store.identity import persons, same_person, twins_but_for_case


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("sub-01", "1", True),
        ("01 ", "SUB_001", True),
        ("0050003", 50003, True),
        ("50003.0", "50003", True),
        ("NDAR_INV00A7", "sub-NDARINV00A7", True),
        ("S-01", "S1", True),
        ("002_S_0413", "002S0413", True),
        ("10_01", "1001", True),
        ("001-02", "1-2", True),
        ("Mu\u0308ller", "M\xfcller", True),
        ("sub01", "01", True),
        ("5.0", "50", False),
        ("10", "1", False),
        ("subj01", "01", False),
        ("anna", "Anna", False),
        ("\u0661", "1", False),
        ("", "0", False),
        ("-", "_", False),
    ],
)
def test_spellings_of_one_person(a, b, same):
    assert same_person(a, b) == same_person(b, a) == same


def test_two_people_of_one_list_are_not_mixed_up():
    names = persons(["1-11", "11-1", "2"], ["111", "sub-02"])
    assert len({names[x] for x in ("1-11", "11-1", "111", "2")}) == 4
    assert names["2"] == names["sub-02"]
    assert twins_but_for_case({"anna", "b"}, {"Anna", "b"}) == ["anna and Anna"]
