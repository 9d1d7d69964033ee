"""Tar files as streams of runs: members that have a key in common, in order.

Nothing is extracted by name, and memory holds one run. Tar files that `cat` has joined are read to
their last byte, packed or not.
"""

import bz2
import functools
import io
import itertools
import lzma
import re
import shutil
import tarfile
import types
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_tools.errors import InputError
from data_tools.files.remote import base_name, open_binary

_LARGEST_JSON = 2**26
_LARGEST_HEADER = 2**20
_BLOCK = 2**17
# Few bytes are unpacked at a time, since they may become a thousand times as many.
_PACKED_BLOCK = 2**14
# Packed files by how they begin; 31 lets zlib read the headers of gzip.
_UNPACKERS = {
    rb"\x1f\x8b\x08": functools.partial(zlib.decompressobj, 31),
    rb"BZh[1-9]1AY&SY": bz2.BZ2Decompressor,
    rb"\xfd7zXZ|\]\x00\x00\x80": lzma.LZMADecompressor,
}

Members = dict[str, bytes]
_Read = Callable[[str, io.BufferedIOBase], bytes]
# Folders and key, suffix, and the bytes to be read before the next member is asked for.
_Member = tuple[str, str, io.BufferedIOBase]


class _Archive(tarfile.TarFile):
    """Knows whether its file ends with the zeros that end a tar, which tarfile does not check."""

    end_seen = False


class _Header(tarfile.TarInfo):
    """Goes on behind the zeros that end an archive, where another one may follow."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        if buf and not any(buf):  # the last block of zeros may be cut short
            raise tarfile.EOFHeaderError("zeros")
        header = super().frombuf(buf, encoding, errors)
        if header.type not in tarfile.REGULAR_TYPES and header.size > _LARGEST_HEADER:
            # Names and the like, which tarfile reads whole.
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        ended = False
        while True:
            try:
                return super().fromtarfile(archive)
            except tarfile.EOFHeaderError:
                ended = True
            except tarfile.EmptyHeaderError:
                archive.end_seen = ended
                if ended:
                    raise tarfile.EOFHeaderError("end") from None
                raise


def read_members(place: str, read: _Read, seekable: bool = False) -> Iterator[tuple[str, Members]]:
    """Yields key and members (suffix -> bytes) of each run of a tar, a path or URL.

    Args:
      read: gives the bytes to keep of a member, by its suffix and file.
      seekable: whether to jump over what is not read, where the tar is not packed.

    Raises:
      InputError: the file is no tar, is truncated or empty, or out to do harm.
    """
    name, empty = base_name(place), True
    with open_binary(place, seekable) as file:
        begin = file.read(10)
        unpackers = [new for magic, new in _UNPACKERS.items() if re.match(magic, begin)]
        size = _PACKED_BLOCK if unpackers else _BLOCK
        blocks = itertools.chain([begin], iter(lambda: file.read(size), b""))
        if unpackers:
            blocks = filter(None, _unpack(blocks, *unpackers))
        elif seekable:
            file.seek(0)
        stream = types.SimpleNamespace(read=lambda size: next(blocks, b""))
        mode, stream = ("r:", file) if seekable and not unpackers else ("r|", stream)
        try:
            with _Archive.open(fileobj=stream, mode=mode, tarinfo=_Header) as archive:
                for run in _grouped(_members(archive, name), read):
                    empty = False
                    yield run
        except (tarfile.TarError, EOFError) as error:
            raise InputError(
                f"{name} is no tar, or is damaged or truncated ({error}): get it again."
            ) from error
    if empty:
        raise InputError(f"{name} holds no run: check the pattern, or get it again.")


def _unpack(blocks: Iterable[bytes], new: Callable[[], Any]) -> Iterator[bytes]:
    """Unpacks a stream with a new unpacker for each of its members; tarfile drops all but one."""
    unpacker = None
    for block in blocks:
        # Zeros may fill the last block of a tape or a disk.
        while block := block if unpacker else block.lstrip(b"\0"):
            unpacker = unpacker or new()
            try:
                yield unpacker.decompress(block)
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise tarfile.ReadError(f"it cannot be unpacked, {error}") from error
            block = unpacker.unused_data
            unpacker = None if unpacker.eof else unpacker
    if unpacker:
        raise EOFError("the packed data end too soon")


def _grouped(members: Iterator[_Member], read: _Read) -> Iterator[tuple[str, Members]]:
    """Key and members of each run; what comes a second time is of another run of that key."""
    path, run = "", {}
    for member, suffix, file in members:
        if run and (member != path or suffix in run):
            yield path.rpartition("/")[-1], run
            run = {}  # before anything of the next is read
        path, run[suffix] = member, read(suffix, file)
    if run:
        yield path.rpartition("/")[-1], run


def _members(archive: _Archive, name: str) -> Iterator[_Member]:
    """Path and key, suffix and bytes of the members of an archive that belong to runs."""
    for info in archive:
        if re.match(r"[/\\]|[A-Za-z]:", info.name) or ".." in re.split(r"[/\\]", info.name):
            raise InputError(
                f"{name} holds a file named {info.name!r}, which leads out of it: get it from its "
                "source again."
            )
        if info.isdir():
            continue
        if not info.isfile() or info.issparse():
            raise InputError(
                f"{name} holds {info.name!r}, which is no file: get it from its source again."
            )
        folder, slash, last = info.name.rpartition("/")
        key, dot, suffix = last.partition(".")
        if not (key and dot):
            continue
        if suffix.endswith(".json") and info.size > _LARGEST_JSON:
            raise InputError(f"{name} holds {info.size:,} bytes of {info.name}: get it again.")
        yield folder + slash + key, suffix, archive.extractfile(info)
        # tarfile remembers every member; of streams of many that is a leak.
        archive.members = []
    if not archive.end_seen:
        raise tarfile.ReadError("its end is missing, or no tar follows it")


def read_whole(suffix: str, file: io.BufferedIOBase) -> bytes:
    """The bytes of a member."""
    # Without a size, tarfile gathers all pieces before it joins them: twice the memory.
    data = io.BytesIO()
    shutil.copyfileobj(file, data, _BLOCK)
    return data.getvalue()
