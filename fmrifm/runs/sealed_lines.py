"""JSON objects with a checksum: lines of files that grow, and small files of state.

The last field of an object, `crc32`, is the CRC-32 of the object without it; in lines of metrics it
is called `perf/crc32`, so that programs which compare runs leave it out with the times. Objects of
earlier versions have none and are taken as they are.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

CRC, LINE_CRC = "crc32", "perf/crc32"
_BLOCK = 2**16
_LONGEST = 2**20  # bytes; a longer line is damage, such as a block of zeros from a disk


def seal(values: Mapping[str, Any], name: str = CRC, indent: int | None = None) -> bytes:
    """An object as JSON with its checksum in the field `name`; ends with a newline."""
    return (json.dumps({**values, name: _checksum(values)}, indent=indent) + "\n").encode()


def unseal(text: bytes) -> dict[str, Any] | None:
    """The object in a text without its checksum; None if the text is damaged."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return None
    if not isinstance(values, dict):
        return None
    found = [values.pop(name) for name in (CRC, LINE_CRC) if name in values]
    return values if found in ([], [_checksum(values)]) else None


def as_metrics(text: bytes) -> dict | None:
    """The object of a line; None if it is damaged, or has no step."""
    line = unseal(text)
    good = line is not None and type(line.get("step")) is int and line["step"] >= 0
    return line if good else None


def _checksum(values: Mapping[str, Any]) -> int:
    # Of the values and not of their text, so that indented files have the same checksum.
    return zlib.crc32(json.dumps(dict(values)).encode())


def read_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file with their newlines, one at a time in memory."""
    with open(path, "rb") as file:
        while line := file.readline(_LONGEST):
            yield line


def read_lines_backwards(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from its end: the offset of each and the line with its newline.

    A line that is longer than any of ours is shortened.
    """
    with open(path, "rb") as file:
        begin, rest = file.seek(0, os.SEEK_END), b""
        while begin:
            begin, end = max(0, begin - _BLOCK), begin
            file.seek(begin)
            first, *lines = _split(file.read(end - begin) + rest)
            rest = first[:_LONGEST]
            place, found = begin + len(first), []
            for line in lines:
                found.append((place, line))
                place += len(line)
            yield from reversed(found)
        if rest:
            yield 0, rest


def _split(data: bytes) -> list[bytes]:
    # Not splitlines, which takes a carriage return for an end, too.
    *lines, last = data.split(b"\n")
    lines = [line + b"\n" for line in lines]
    return [*lines, last] if last or not lines else lines
