"""Lines with checksums: what damage does to one, and to those around it."""

import json
import tracemalloc

import pytest

from fmrifm.runs.goodput import LOSSES, STEPS, Account
from fmrifm.runs.metrics_writer import LineFile, MetricsWriter, read_metrics
from fmrifm.runs.sealed_lines import LINE_CRC, read_lines_backwards, seal, unseal

LINE = {"step": 12, "train/loss": 0.1 + 0.2, "eval/held/loss": 1e-05, "name": "é", "n": [1, None]}


@pytest.mark.parametrize("indent", [None, 1])
def test_no_flipped_bit_becomes_another_value(indent):
    """It is noticed, or changes nothing, or makes the line one of an earlier version."""
    text = seal(LINE, indent=indent)
    assert unseal(text) == LINE and b'"crc32": ' in text
    unnoticed = []
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        found = unseal(bytes(flipped))
        if found is not None and found != LINE:
            assert {k: v for k, v in found.items() if k in LINE} == LINE
            unnoticed.append(bit)
    assert len(unnoticed) <= 8 * len("crc32")
    for damaged in (b"", b"\0" * 50, text[:-9], b"\xff" + text, b"[1]", b"3", b"[" * 100_000):
        assert unseal(damaged) is None
    assert unseal(json.dumps(LINE).encode()) == LINE  # of an earlier version


@pytest.mark.parametrize("end", [b"", b"\n", b'{"step": 1'])
def test_a_file_backwards_is_the_file(tmp_path, end):
    lines = [seal({"step": i, "text": "x" * (i * 37 % 5000)}) for i in range(200)]
    (tmp_path / "file").write_bytes(b"".join(lines) + end)
    found = list(read_lines_backwards(tmp_path / "file"))[::-1]
    assert [line for _, line in found] == lines + [end] * bool(end)
    places = [place for place, _ in found]
    assert places == [sum(map(len, lines[:i])) for i in range(len(places))]


def test_resuming_reads_only_the_end(tmp_path, capsys):
    """No line, damaged or not, in front of the step is lost, and memory has a bound."""
    path = tmp_path / "metrics.jsonl"
    lines = [seal({"step": i // 2, "train/loss": 1.0}) for i in range(100_000)]
    lines[7], zeros = b"\xff\n", bytes(2**22)  # a block of a disk
    path.write_bytes(b"".join([*lines[:50_000], zeros, *lines[50_000:], lines[0][:9]]))
    size = sum(map(len, lines[:99_002])) + len(zeros)
    (tmp_path / "other").mkdir()
    MetricsWriter(tmp_path / "other", 0, None, {}).close()  # imports TensorBoard
    tracemalloc.start()
    writer = MetricsWriter(tmp_path, 49_500, None, {})
    peak = tracemalloc.get_traced_memory()[1]
    writer.write(49_501, {"train/loss": 2.0})
    writer.close()
    assert peak < 2**21 and writer.kept == {"step": 49_500, "train/loss": 1.0}
    assert path.read_bytes()[:size] == b"".join([*lines[:50_000], zeros, *lines[50_000:99_002]])
    assert capsys.readouterr().err == ""
    tracemalloc.stop()
    assert len(read_metrics(path)) == 99_002 - 1 + 1  # without the damaged one, with the new one
    assert "left out damaged lines (8, 50001, 50002, 50003, 50004)" in capsys.readouterr().err


def test_an_account_goes_on_after_damage(tmp_path):
    """Of its lines the last whole one counts; none that a checkpoint covers is taken twice."""
    path = tmp_path / "goodput.jsonl"
    seconds = dict.fromkeys((STEPS, *LOSSES), 0.0)
    lines = [
        seal({"time": 10.0 * i, "start": 1, "step": i, "event": "step",
              "seconds": seconds | {STEPS: float(i)}})
        for i in range(6)
    ]  # fmt: skip
    damaged = (lines[5].replace(b"5.0", b"7.0"), b"\0\0\n", b'{"step": 5, "time": 1}\n', b'{"st')
    path.write_bytes(b"".join([*lines[:5], *damaged]))
    account = Account(began=100.0, clock=lambda: 100.0)
    account.take_up(path, 3)
    account.close()
    assert account.starts == 2 and account.seconds["down_time"] == 60.0
    assert (account.seconds[STEPS], account.seconds["repeated_steps"]) == (3.0, 1.0)
    assert path.read_bytes().startswith(b"".join([*lines[:5], *damaged[:3]]))


def test_a_last_line_without_its_newline_stays_if_it_is_whole(tmp_path):
    path = tmp_path / "lines.jsonl"
    for torn, kept in ((seal({"step": 2})[:-1], seal({"step": 2})), (seal({"step": 2})[:-4], b"")):
        path.write_bytes(seal({"step": 1}) + torn)
        file = LineFile(path)
        file.write({"step": 3})
        file.close()
        assert path.read_bytes() == seal({"step": 1}) + kept + seal({"step": 3}, LINE_CRC)
