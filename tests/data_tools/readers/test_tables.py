"""Tables: each fault has its own sentence, and no row or column gets lost."""

import pytest

from data_tools.errors import InputError
from data_tools.readers.tables import read_rows, to_count, to_number, typed_values


def rows_of(path, content, *needed):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row for _, row in read_rows(path, *needed)]


def test_tsv_has_no_quoting_and_csv_has(tmp_path):
    tsv, csv = tmp_path / "a.tsv", tmp_path / "a.csv"
    assert rows_of(tsv, 'id\tx\r\n1\t"HC\r\n2\tMDD"\r\n\t\r\n') == [
        {"id": "1", "x": '"HC'}, {"id": "2", "x": 'MDD"'}
    ]  # fmt: skip
    # An index without a name and a note over two lines are right; a BOM is none of a name.
    text = '\ufeff,id, x \n0,1,"a, ""b""\nc"\n1,2,5" pipe\n'
    assert rows_of(csv, text, "id", ("y", "x")) == [
        {"id": "1", "x": 'a, "b"\nc'}, {"id": "2", "x": '5" pipe'}
    ]  # fmt: skip
    assert rows_of(tmp_path / "a.txt", "id\tx,y\n1\t2\n") == [{"id": "1", "x,y": "2"}]
    assert rows_of(tsv, "id\n", "id") == []


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.tsv", "", "no rows and no header"),
        ("a.tsv", "\n \n", "no rows and no header"),
        ("a.tsv", "id\tage\tage\n1\t2\t3\n", "two columns 'age'"),
        ("a.tsv", "ID\tage\n", "no column 'id': it has ID, age"),
        ("a.tsv", '"id"\t"age"\n"1"\t"2"\n', "in quotation marks"),
        ("a.csv", "100307,5\n", "no column 'id': its first line has no names"),
        ("a.tsv", "id,age\n1,2\n", "separated by commas, and its name promises tabs"),
        ("a.csv", "id;age\n1;2\n", "separated by semicolons"),
        ("a.csv", "id\tage\n1\t2\n", "separated by tabs, and its name promises commas"),
        ("a.csv", 'id,age\n1,"HC\n2,MDD"\n', "Line 2 of .* one row of 2 lines"),
        ("a.csv", 'id,age\n1,"HC\n2,MDD\n', "is no table"),
        ("a.csv", b"id,\xe4ge\n", "is no table"),
        ("a.tsv", b"i\0d\0\n\0", "is no table"),
        ("a.tsv", "/annex/objects/MD5E-s69--aa604e.tsv\n", "git-annex.*not fetched: datalad get"),
        ("a.tsv", "../../.git/annex/objects/a/b/MD5E-s69--a.tsv", "git-annex"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:4\n", "git lfs pull"),
    ],
)
def test_each_fault_has_its_sentence(tmp_path, name, content, words):
    with pytest.raises(InputError, match=words) as error:
        rows_of(tmp_path / name, content, "id")
    assert str(tmp_path / name) in str(error.value)


def test_links_to_nothing_are_named(tmp_path):
    (tmp_path / "a.tsv").symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    (tmp_path / "sub-01").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "a.tsv", tmp_path / "sub-01" / "b.tsv"):
        with pytest.raises(InputError, match="is a link to nothing.*datalad get"):
            read_rows(path)


def test_numbers_are_those_of_bids():
    assert typed_values(["1", "-2.5", " n/a ", ".5", "NaN", ""]) == [
        1,
        -2.5,
        None,
        0.5,
        "NaN",
        None,
    ]
    for texts in (
        ["1", "1_1"],
        ["1e2"],
        ["007", "7"],
        ["+1", "1"],
        ["\u0661"],
        ["1", "a"],
        ["inf"],
    ):
        assert typed_values(texts) == texts
    assert [to_number(x) for x in ("1e-05", " +3 ", "1_1", "\uff11", "1e999", "nan", "1 2")] == [
        1e-5, 3, None, None, None, None, None
    ]  # fmt: skip
    assert to_count("3.0") == 3
    for text in ("1_0", "-1", "2.5", ""):
        with pytest.raises(ValueError, match="no whole number"):
            to_count(text)
