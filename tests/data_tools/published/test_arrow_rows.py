"""Rows of published datasets become runs: keys, fields, labels, events and joins."""

import datetime
import json

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.published.arrow_rows import RowForm, are_clips, check_labels, read_join

pa = pytest.importorskip("pyarrow")
from data_tools.published.arrow import read_rows, read_values  # noqa: E402
from tests.data_tools.published.arrow_folders import (  # noqa: E402
    CLIP_COLUMNS,
    RUN_COLUMNS,
    clips,
    runs,
    write_arrow,
)

NSD = {"sub": "01", "ses": 3, "run": 2, "trial_id": 71, "nsd_id": 5, "start": 120, "tr": 1.6,
       "n_frames": 16}  # fmt: skip
BOLD = {"bold": np.zeros((16, 40), np.float16)}


def test_keys_say_what_tells_rows_apart():
    assert RowForm(clips=True).key(NSD) == "sub-01_ses-3_run-2_start-00120_trial-71"
    # Starts that are no integers are seconds.
    assert RowForm(clips=True).key({"sub": "01", "start": 88.0, "tr": 0.8}) == "sub-01_start-00110"
    assert RowForm(clips=True).key(NSD | {"key": "own"}) == "own"
    assert RowForm().key({"sub": "01", "visit": "V1", "start": 0.0}) == "sub-01_visit-V1"


def test_fields_have_our_names_and_never_those_of_the_store():
    fields = RowForm(clips=True).fields(NSD | {"crc32": 9, "qc": 1, "end": 136})
    assert fields["subject"] == "01" and fields["session"] == 3 and "sub" not in fields
    assert (fields["row_n_frames"], fields["row_crc32"], fields["row_qc"]) == (16, 9, 1)
    assert (fields["start"], fields["end"]) == (120, 136)
    assert RowForm().fields({"sub": "01", "visit": "V1"})["session"] == "V1"
    both = RowForm().fields({"sub": "01", "ses": "2", "visit": "V1"})
    assert (both["session"], both["visit"]) == ("2", "V1")


def test_an_event_lasts_as_long_as_the_clip_whatever_its_columns_are_called():
    row = {"sub": "01", "tr": 1.6, "cond": "face", "onset": 7.5, "duration": 3.0}
    (event,) = RowForm(clips=True).run(row, BOLD).events
    assert event == {"onset": 0.0, "duration": 25.6, "trial_type": "face", "cond": "face"}
    assert RowForm(clips=True).run(row, BOLD).fields["onset"] == 7.5
    (event,) = RowForm(clips=True).run(row | {"trial_type": "place"}, BOLD).events
    assert event["trial_type"] == "place"
    assert RowForm().run(row, BOLD).events is None


def test_rows_that_begin_at_several_times_are_clips():
    assert are_clips(clips(1)) and not are_clips(runs(range(3)))
    assert not are_clips([{"start": 0}, {"start": 0}, {"start": None}])


def test_joins_compare_letters_and_digits(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"168_S_6049_2020-10-12": "AD", "2": None}))
    join = read_join(f"dx={path}@sub+visit")
    assert join.label({"sub": "168S6049", "visit": "20201012"}) == "AD"
    assert join.label({"sub": "2", "visit": ""}) is None

    def wrong(values, match):
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match=match):
            read_join(f"dx={path}@sub")

    wrong({"a-1": 1, "A1": 2}, "two labels of 'A1'")
    wrong({"a": [1, 2]}, "no JSON object of labels")
    wrong([1], "no JSON object of labels")
    path.write_text(json.dumps({"1": 1}))
    for name, columns, match in (
        ("dx", "visit", "no column 'visit' for --join=dx"),
        ("sub", "sub", "has a column 'sub' already"),
    ):
        form = RowForm(joins=(read_join(f"{name}={path}@{columns}"),))
        with pytest.raises(InputError, match=match):
            check_labels([{"sub": "1", "tr": 1.0}], form, "train")


def test_values_of_all_types_are_read(tmp_path):
    names = {"info": {"features": {"dx": {"names": ["control", "patient"], "_type": "ClassLabel"}}}}
    columns = RUN_COLUMNS | {
        "scanned": pa.date32(), "half": pa.float16(), "blob": pa.large_binary(),
        "half_tr": pa.float16(), "list": pa.list_(pa.int8()), "old": pa.bool_(),
        "group": pa.dictionary(pa.int8(), pa.utf8()),
    }  # fmt: skip
    more = {"scanned": datetime.date(2020, 1, 2), "half": np.float16("nan"), "blob": b"x",
            "half_tr": np.float16(0.72), "list": [1], "old": True, "group": "g"}  # fmt: skip
    rows = [row | more for row in runs(range(2), tr=0.72)]
    metadata = {b"huggingface": json.dumps(names).encode()}
    path = write_arrow(tmp_path / "a.arrow", rows, columns, metadata)
    values = list(read_values(str(path), "a"))
    assert [row["dx"] for row in values] == ["control", "patient"]
    row = values[0]
    assert (row["tr"], row["age"], row["scanned"], row["old"], row["group"]) == (
        0.72, 20.1, "2020-01-02", True, "g",
    )  # fmt: skip
    assert row["half_tr"] == 0.72
    assert not {"blob", "list", "bold"} & set(row) and "half" in RowForm().lacks(row)
    json.dumps(values)


def test_rows_without_a_scale_have_none(tmp_path):
    rows = clips(1)
    rows[1]["mean"] = rows[1]["std"] = None
    path = write_arrow(tmp_path / "a.arrow", rows, CLIP_COLUMNS)
    read = [RowForm().run(row, arrays) for row, arrays in read_rows(str(path), "a")]
    assert [run.mean_C is None and run.std_C is None for run in read] == [False, True, False, False]
    for run, row in zip(read, rows, strict=True):
        assert run.bold_TxC.tobytes() == row["bold"].tobytes()


def write_table(path, file_format=False, **columns):
    table = pa.table(columns)
    new = pa.ipc.new_file if file_format else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path.read_bytes()


def read_bold(path):
    return np.stack([arrays["bold"] for _, arrays in read_rows(str(path), path.name)])


def test_frames_in_lists_of_every_kind_are_read(tmp_path):
    frames = np.arange(3 * 2 * 4, dtype=np.float16).reshape(3, 2, 4)
    half, path = pa.float16(), tmp_path / "a.arrow"
    types = (
        pa.list_(pa.list_(half, 4)),
        pa.list_(pa.list_(half, 4), 2),
        pa.large_list(pa.large_list(half)),
        pa.list_view(pa.list_view(half)),
        pa.large_list_view(pa.list_(half)),
    )
    for kind in types:
        write_table(path, bold=pa.array(frames.tolist(), kind), tr=[1.0] * 3)
        np.testing.assert_array_equal(read_bold(path), frames)
    # Views may stand in any order in the file.
    sizes, places = pa.array([4] * 6, pa.int32()), pa.array([20, 16, 12, 8, 4, 0], pa.int32())
    inner = pa.ListViewArray.from_arrays(places, sizes, pa.array(frames.reshape(-1), half))
    ends, sizes = pa.array([4, 0, 2], pa.int32()), pa.array([2, 2, 2], pa.int32())
    write_table(path, bold=pa.ListViewArray.from_arrays(ends, sizes, inner), tr=[1.0] * 3)
    np.testing.assert_array_equal(read_bold(path), frames[::-1, ::-1][[2, 0, 1]])
    for kind in types[:2]:
        write_table(path, bold=pa.array([[[1, 2, 3, 4], None]], kind), tr=[1.0])
        with pytest.raises(InputError, match="not frames x columns of numbers"):
            read_bold(path)


@pytest.mark.parametrize("file_format", [False, True])
def test_what_follows_the_end_of_a_file_is_read_or_refused(tmp_path, file_format):
    rows, path = np.arange(24, dtype=np.float16).reshape(6, 2, 2), tmp_path / "a.arrow"
    kind = pa.list_(pa.list_(pa.float16()))
    parts = [
        write_table(path, file_format, bold=pa.array(some.tolist(), kind), tr=[1.0] * 3)
        for some in (rows[:3], rows[3:])
    ]
    path.write_bytes(b"".join(parts))
    if not file_format:
        np.testing.assert_array_equal(read_bold(path), rows)
    joined = [parts[0] + rest for rest in (b"x", parts[1][:-9])] + [b"", parts[0][:6], parts[0][:8]]
    for data in [*joined, *([b"".join(parts)] if file_format else [])]:
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.arrow is .*truncated"):
            read_bold(path)
