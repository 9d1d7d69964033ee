"""The language of data.train and data.eval."""

import dataclasses
import itertools

import pytest

from data_tools.errors import InputError
from fmrifm.input.sources import parse_named_sources, parse_sources, union_geometry
from tests.conftest import toy_geometry, write_toy_store


def keys(source):
    return [source.store.runs[r]["key"] for r in source.runs]


def test_filters_by_pattern_and_file(stores, tmp_path):
    listed = tmp_path / "subjects.txt"
    listed.write_text("00\n03\n04\n")
    (source,) = parse_sources(f"{stores['train']}?subject={listed}")
    assert keys(source) == ["sub-00_run-1", "sub-03_run-1", "sub-04_run-1"]
    (source,) = parse_sources(f"{stores['train']}?task=*2&subject={listed}")
    assert keys(source) == ["sub-00_run-1", "sub-04_run-1"]


def test_shares_and_names(stores):
    a, b = parse_sources(f"{stores['train']}?task=REST1@0.25, {stores['eval']}@0.75")
    assert (a.share, b.share, len(a.runs)) == (0.25, 0.75, 2)
    sets = parse_named_sources(
        f"x={stores['train']}?task=REST1,y={stores['eval']},x={stores['other']}"
    )
    assert [len(sets[name]) for name in ("x", "y")] == [2, 1]


def test_stores_may_have_any_name(stores, tmp_path):
    for name in ("hcp@1.0.0", "hcp@2024-01-15", "a@e", "hcp@5", "old (copy) [2]", "a,b", "x=1"):
        (tmp_path / name).symlink_to(stores["train"])
        (source,) = parse_sources(str(tmp_path / name))
        assert source.share is None and source.store.name == name
    (source,) = parse_sources(f"{tmp_path}/hcp@1.0.0?task=REST1@0.5")
    assert (source.share, len(source.runs)) == (0.5, 2)
    (tmp_path / "a").symlink_to(stores["train"])
    (tmp_path / "a@2").symlink_to(stores["train"])
    with pytest.raises(InputError, match="are both stores"):
        parse_sources(f"{tmp_path}/a@2")


def test_subjects_match_however_they_are_written(stores, tmp_path, capsys):
    listed = tmp_path / "subjects.txt"
    listed.write_text("\ufeffsub-00\n3\n4\n77\n")
    (source,) = parse_sources(f"{stores['train']}?subject={listed}")
    assert keys(source) == ["sub-00_run-1", "sub-03_run-1", "sub-04_run-1"]
    said = capsys.readouterr().err
    assert "1 of 4 words are no subject of a run of" in said and "such as 77." in said
    (source,) = parse_sources(f"{stores['train']}?subject=sub-3")
    assert keys(source) == ["sub-03_run-1"]
    listed.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="Git LFS"):
        parse_sources(f"{stores['train']}?subject={listed}")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "No store"),
        ("/nowhere", "/nowhere"),
        ("{train}?colour=red", "'colour'"),
        ("{train}?task=WM*", "loosen"),
        ("{train}?task", "no filter"),
        ("{train}?subject=draw:6:1", "6 of the 5 values of 'subject'"),
        ("{train}?task=REST1&subject=draw:0:1", "0 of the 2 values"),
        ("{train}@0.5,{eval}", "all or none"),
        ("{train}@0", "above zero"),
    ],
)
def test_mistakes_are_named(stores, text, words):
    with pytest.raises(InputError, match=".*") as error:
        parse_sources(text.format(**stores))
    assert words in str(error.value)


def test_draws_are_nested_and_keep_their_order_as_a_store_grows(stores):
    def drawn(text):
        (source,) = parse_sources(text)
        return [line["subject"] for line in source.lines]

    for draw in (1, 2, 3):
        sets = [set(drawn(f"{stores['train']}?subject=draw:{n}:{draw}")) for n in range(1, 6)]
        assert [len(x) for x in sets] == [1, 2, 3, 4, 5]
        assert all(a < b for a, b in itertools.pairwise(sets))
        # Of fewer subjects, those that are left come in the same order.
        kept = [set(drawn(f"{stores['eval']}?subject=draw:{n}:{draw}")) for n in range(1, 4)]
        order = [min(b - a) for a, b in itertools.pairwise([set(), *sets])]
        assert [min(b - a) for a, b in itertools.pairwise([set(), *kept])] == [
            subject for subject in order if subject in kept[-1]
        ]
    orders = {tuple(sorted(drawn(f"{stores['train']}?subject=draw:2:{d}"))) for d in range(9)}
    assert len(orders) > 3
    # Conditions before it are met first.
    assert drawn(f"{stores['train']}?task=REST1&subject=draw:2:1") == ["01", "03"]


def test_masks_unite_on_one_grid_only(stores, tmp_path):
    geometry = union_geometry(parse_sources(f"{stores['other']},{stores['train']}"))
    assert geometry.sha256() == toy_geometry().sha256()
    fine = dataclasses.replace(toy_geometry(), patch_shape=(4, 4))
    path = write_toy_store(tmp_path / "fine", seed=0, geometry=fine)
    with pytest.raises(InputError, match="same grid"):
        union_geometry(parse_sources(f"{stores['train']},{path}"))
