"""Mutations of files: of bytes, of text, of JSON, and of what lies inside containers.

Each is a function of a random generator and bytes. `mutate` chooses one; containers with checksums
(gzip, zip, tar) are opened, changed inside and packed again, so that readers get to see the change.
"""

import base64
import gzip
import io
import json
import random
import re
import struct
import tarfile
import zipfile
import zlib
from typing import Any

INTEGERS = (0, 1, -1, 2, 3, 255, 2**15, 2**16, 2**24, 2**31 - 1, -(2**31), 2**32 - 1, 2**40)
INTEGERS += (2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, -1.0, 1e-300, 1e30, 1e300, float("inf"), float("-inf"), float("nan"))
# Control characters, escapes of terminals, formulas, paths, other scripts, and no UTF-8.
TEXTS = (
    *("", " ", "0", "-0", "-1", "1.5", "1e999", "-1e999", "nan", "inf", "n/a", "null", "true"),
    *("9" * 25, "9" * 400, "0x10", "1_0", "007", "\u0661", "NaN", "Infinity", "None", "[]", "{}"),
    *("../../../evil", "/etc/passwd", "a/b", "..", ".", "CON", "x" * 5000, "=1+1", "+1", "@x"),
    *("\x1b[2J", "\x00", "\r\n", "\t", "\x7f", "\x9b31m", "\u202e", "\ufeff", "\ud800", '"', "'"),
)
_TOKEN = re.compile(rb"[A-Za-z0-9_.+-]+")


def _place(rng: random.Random, data: bytes) -> int:
    """A place in the data, every other time among the first bytes, where headers are."""
    last = len(data) if rng.random() < 0.5 else min(len(data), 600)
    return rng.randrange(last) if last else 0


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: random.Random, data: bytes) -> bytes:
    changed, start = bytearray(data), _place(rng, data)
    for i in range(start, min(len(data), start + rng.choice((1, 1, 2, 4, 8)))):
        changed[i] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, _place(rng, data), max(0, len(data) - rng.randrange(1, 64))))]


def zero_range(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    stop = min(len(data), start + rng.choice((4, 16, 64, 512)))
    return data[:start] + bytes(stop - start) + data[stop:]


def insert(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 1, 3, 8, 64))) + data[start:]


def remove(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 100)) :]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    start, size = _place(rng, data), rng.choice((1, 8, 64, 512, len(data)))
    return data[: start + size] + data[start:]


def swap_blocks(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice((1, 4, 16, 512))
    a, b = sorted((_place(rng, data), _place(rng, data)))
    b = max(b, a + size)
    return (
        data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]
    )


def extreme_field(rng: random.Random, data: bytes) -> bytes:
    """An integer or a float of some size and byte order becomes an extreme one."""
    kind = rng.choice("bhiiqqfdd")
    code, size = rng.choice("<>") + kind, struct.calcsize(kind)
    if len(data) < size:
        return b""
    value = rng.choice(FLOATS if kind in "fd" else INTEGERS)
    if kind == "f":
        value = struct.unpack("f", struct.pack("f", value))[0] if abs(value) < 1e38 else value
    start = _place(rng, data[: len(data) - size + 1]) // size * size
    try:
        piece = struct.pack(code, value)
    except (struct.error, OverflowError):
        piece = (value % 2 ** (8 * size)).to_bytes(size, "little") if kind not in "fd" else b"\xff"
    return data[:start] + piece[:size].ljust(size, b"\x7f") + data[start + size :]


def replace_token(rng: random.Random, data: bytes) -> bytes:
    """A word or number of a text becomes an odd one, or another of the text."""
    tokens = list(_TOKEN.finditer(data[:20_000]))
    if not tokens:
        return insert(rng, data)
    token = rng.choice(tokens)
    new = rng.choice(tokens)[0]
    if rng.random() < 0.7:
        new = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return data[: token.start()] + new + data[token.end() :]


def change_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return b"\n"
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    way = rng.randrange(4)
    if way == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 1:
        lines.insert(i, lines[j])
    elif way == 2:
        del lines[i]
    else:
        lines[i] = lines[i].rstrip(b"\r\n") + rng.choice((b"\t", b",", b"\r", b'"', b"\0")) + b"\n"
    return b"".join(lines)


def odd_value(rng: random.Random) -> Any:
    """A JSON value of any type; Python's encoder writes NaN and infinities too."""
    deep: Any = []
    for _ in range(50):
        deep = [deep]
    kinds = (None, True, False, [], {}, [1], {"a": 1}, deep, [[]], [None], 10**30, 0.5, "x")
    return rng.choice(
        (rng.choice(kinds), rng.choice(INTEGERS), rng.choice(FLOATS), *TEXTS[:3])
        + (rng.choice(TEXTS),)
    )


def change_json(rng: random.Random, data: bytes) -> bytes:
    """A value of a JSON text, or of one of its lines, becomes another, or a key is lost."""
    if rng.random() < 0.02:
        return rng.choice((b"[", b'{"a":')) * 100_000
    lines = data.splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith(b"{") and line.endswith(b"}")]
    if len(lines) > 1 and places and not data.rstrip().endswith(b"\n}"):
        i = rng.choice(places)
        lines[i] = _change_value(rng, lines[i])
        return b"\n".join(lines) + b"\n"
    return _change_value(rng, data)


def _change_value(rng: random.Random, text: bytes) -> bytes:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return replace_token(rng, text)
    places: list[tuple[Any, Any]] = []
    left = [tree]
    while left:
        node = left.pop()
        inside = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in inside:
            places.append((node, key))
            if isinstance(value, dict | list):
                left.append(value)
    if not places or rng.random() < 0.05:
        return json.dumps(odd_value(rng)).encode()
    node, key = rng.choice(places)
    way = rng.random()
    if way < 0.15:
        del node[key]
    elif way < 0.3 and isinstance(node, dict):
        node[rng.choice((*TEXTS, "key", "name", "events"))] = node.pop(key)
    else:
        node[key] = odd_value(rng)
    return json.dumps(tree).encode()


BYTES = (
    *(flip_bits, set_bytes, truncate, zero_range, insert, remove, duplicate, swap_blocks),
    *(extreme_field, extreme_field, extreme_field),
)
TEXT = (replace_token, replace_token, replace_token, change_lines, flip_bits, truncate, duplicate)


def mutate(rng: random.Random, data: bytes, depth: int = 0) -> tuple[str, bytes]:
    """One mutation that suits the data: its kind, and the bytes that it leaves."""
    inside = [reach for fits, reach in _CONTAINERS if fits(data)]
    if inside and depth < 4 and rng.random() < 0.7:
        kind, changed = inside[0](rng, data, depth)
        if changed != data:
            return kind, changed
    pool = BYTES
    if b"\0" not in data[:4096] and (b"\n" in data or data[:1] in b"{[<"):
        pool = TEXT
        if data.lstrip()[:1] in (b"{", b"["):
            pool = (*TEXT, *(change_json,) * 9)
    choice = rng.choice(pool)
    return choice.__name__, choice(rng, data)


def _in_gzip(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    try:
        kind, changed = mutate(rng, gzip.decompress(data), depth + 1)
    except (OSError, EOFError, zlib.error):
        return "", data
    return f"gzip/{kind}", gzip.compress(changed, 1, mtime=0)


def _in_zip(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            members = [(info, old.read(info)) for info in old.infolist()]
            i, way, kind = rng.randrange(len(members)), rng.random(), "lost"
            if way < 0.05:
                del members[i]
            elif way < 0.1:
                members[i][0].filename, kind = rng.choice(TEXTS[:-3]) or "x", "renamed"
            else:
                kind, changed = mutate(rng, members[i][1], depth + 1)
                members[i] = (members[i][0], changed)
            for info, content in members:
                new.writestr(info.filename, content, info.compress_type)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error, IndexError):
        return "", data
    return f"zip/{kind}", out.getvalue()


def _in_tar(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            infos = archive.getmembers()
            contents = [archive.extractfile(info).read() for info in infos]
    except (tarfile.TarError, AttributeError, EOFError):
        return "", data
    i, way, kind = rng.randrange(len(infos)), rng.random(), "header"
    if way < 0.25:
        # A field of a header, with the checksum that goes with it.
        start = infos[i].offset
        header = bytearray(data[start : start + 512])
        header[:500] = rng.choice(BYTES)(rng, bytes(header[:500])).ljust(500, b"\0")[:500]
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return f"tar/{kind}", data[:start] + bytes(header) + data[start + 512 :]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as new:
        if way < 0.3:
            infos[i].name, kind = rng.choice(TEXTS[:-3]) or "x", "renamed"
        elif way < 0.35:
            infos[i].type, kind = rng.choice((b"1", b"2", b"3", b"5", b"6")), "type"
            infos[i].size, contents[i] = 0, b""
        else:
            kind, contents[i] = mutate(rng, contents[i], depth + 1)
            infos[i].size = len(contents[i])
        for info, content in zip(infos, contents, strict=True):
            new.addfile(info, io.BytesIO(content))
    return f"tar/{kind}", out.getvalue()


def _in_npy(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    """The header of an array, with a length that fits."""
    if rng.random() < 0.4:
        return "", data
    size = struct.unpack("<H", data[8:10])[0]
    header = replace_token(rng, data[10 : 10 + size].rstrip())
    header = header[:60_000].ljust(size) + b"\n"
    return "npy/header", data[:8] + struct.pack("<H", len(header)) + header + data[10 + size :]


def _in_safetensors(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    header = change_json(rng, data[8 : 8 + size])
    return "safetensors/header", struct.pack("<Q", len(header)) + header + data[8 + size :]


def _in_gifti(rng: random.Random, data: bytes, depth: int) -> tuple[str, bytes]:
    """The data of an array of a GIFTI file, or a word of its XML."""
    arrays = list(re.finditer(rb"<Data>([^<]+)</Data>", data))
    if not arrays or rng.random() < 0.6:
        return "gifti/xml", replace_token(rng, data)
    array = rng.choice(arrays)
    try:
        values = zlib.decompress(base64.b64decode(array[1]))
    except (ValueError, zlib.error):
        return "", data
    changed = base64.b64encode(zlib.compress(rng.choice(BYTES)(rng, values)))
    return "gifti/data", data[: array.start(1)] + changed + data[array.end(1) :]


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and struct.unpack("<Q", data[:8])[0] <= len(data)


_CONTAINERS = (
    (lambda data: data[:2] == b"\x1f\x8b", _in_gzip),
    (lambda data: data[:2] == b"PK", _in_zip),
    (lambda data: data[257:262] == b"ustar", _in_tar),
    (lambda data: data[:8] == b"\x93NUMPY\x01\x00", _in_npy),
    (_is_safetensors, _in_safetensors),
    (lambda data: b"<GIFTI" in data[:400], _in_gifti),
)
