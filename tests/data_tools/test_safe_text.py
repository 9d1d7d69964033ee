"""What others have named and written reaches terminals, tables and files of ours harmlessly."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from data_tools.errors import InputError, check_file_name, kind_errors
from data_tools.files.remote import base_name
from data_tools.reports.text_tables import as_csv
from data_tools.safe_text import Terminal, visible, without_secrets
from fmrifm.runs.config import BEFORE, check_unchanged, config_dict
from fmrifm.runs.provenance import record_start


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://me:hunter2@host/a", "https://host/a"),
        ("https://ghp_x@host/a@0.5", "https://host/a@0.5"),
        ("s3://me:hunter2@host/a", "s3://host/a"),
        ("gs://bucket@0.5", "gs://bucket@0.5"),
        ("https://h/a?x=1&token=hunter2&y=2", "https://h/a?x=1&token=***&y=2"),
        ("https://h/a?X-Amz-Credential=A%2F1&X-Amz-Signature=bad'", None),
        ("https://h/a?X-Goog-Signature=bad, b", "https://h/a?X-Goog-Signature=***, b"),
        ("https://h/a?sv=2&sig=bad", "https://h/a?sv=2&sig=***"),
        ("store?task=REST*&key=train.txt", "store?task=REST*&key=train.txt"),
        ("403, Authorization: Bearer abc.def-1", "403, Authorization: Bearer ***"),
    ],
)
def test_passwords_are_taken_out_of_urls(text, kept):
    shown = without_secrets(text)
    assert kept is None or shown == kept
    assert not {"hunter2", "bad", "A%2F1", "ghp_x", "abc.def-1"} & set(
        shown.replace("=", " ").replace("'", " ").replace("&", " ").split()
    )
    assert without_secrets(shown) == shown
    assert text not in str(InputError(f"{text} is not there.")) or text == shown


def test_files_of_a_run_keep_no_password(tmp_path, monkeypatch):
    url = "https://me:hunter2@host/store?token=hunter2"
    config = ConfigDict({"data": {"train": f"{url},{url}@0.5"}, "seed": 0})
    for field, value in BEFORE.items():
        section, name = field.split(".")
        config[section] = {**config.get(section, {}), name: value}
    shown = config_dict(config)
    record_start(tmp_path, shown, {url: "0"})
    assert "hunter2" not in json.dumps(shown) + (tmp_path / "provenance.json").read_text()
    # A run of an earlier version, which kept it, goes on; that of other data does not.
    saved = {"config": json.loads(config.to_json()), "stores": {url: "0"}}
    check_unchanged(saved, {"config": shown, "stores": {}}, allow=False)
    config.data.train = "https://me:hunter2@other/store"
    with pytest.raises(InputError, match="data.train") as error:
        check_unchanged(saved, {"config": config_dict(config), "stores": {}}, allow=False)
    assert "hunter2" not in str(error.value)
    assert base_name("https://me:hunter2@host") == "host"


def test_terminals_get_no_control_characters(capsys):
    evil = "a\x1b[2J\x07\x9b31m\u202eb\rc"
    with pytest.raises(SystemExit), kind_errors():
        print(evil)
        print(evil, file=sys.stderr)
        with kind_errors():  # one main calls another
            print(evil)
        raise InputError(f"No {evil} at https://me:hunter2@host/.")
    out, err = capsys.readouterr()
    assert out == 2 * "a\\x1b[2J\\x07\\x9b31m\\u202eb\\rc\n"
    assert err.startswith("a\\x1b") and "error: No a\\x1b" in err and "hunter2" not in err
    assert not isinstance(sys.stdout, Terminal)
    assert visible("ä\tb\n") == "ä\tb\n"


def test_progress_bars_still_move_the_cursor():
    stream = io.StringIO()
    terminal = Terminal(stream)
    for text in ("\rread: 1", "\x1b[A", "\n\n", "\x1b[H\x1b[J", "\r"):
        terminal.write(text)
    assert stream.getvalue() == "\rread: 1\x1b[A\n\n\x1b[H\x1b[J\r"


def test_cells_that_spreadsheets_would_compute_are_texts():
    rows = [["=1+1", "+cmd", "@x", "\tx", "-a"], ["-1.5", "+2e-3", "-inf", "-", "a=b", ""]]
    rows += [[-1.5, None, np.float32(-2), 3, True, "007"], ["\x1b[2J", "a\r=1"]]
    evil, fine, values, escapes = csv.reader(io.StringIO(as_csv(rows)))
    assert evil == [f"'{cell}" for cell in rows[0]]
    assert fine == rows[1]
    assert escapes == ["\\x1b[2J", "a\\r=1"]
    assert values == ["-1.5", "", "-2.0", "3", "True", "007"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "/a", "a/b", "a\\b", "a\0", "a\nb", "a\x1bb", "\ud800", "é" * 101]
    + ["CON", "nul.txt", "LPT1", "\u2028"],
)
def test_names_that_cannot_name_files_are_refused(name):
    with pytest.raises(InputError, match="cannot name a file"):
        check_file_name(name, "The key")


def test_ordinary_names_are_taken():
    for name in ("sub-01_task-rest", "Müller", "a b", "console", "a..b", "x" * 200, "auxiliary.1"):
        check_file_name(name, "The key")
