"""Files here and elsewhere: patterns of names, and reading from disks, web servers and buckets.

A place is a path, or a URL that fsspec can open (`https://`, `s3://`, ...). The endpoint of a
bucket that is not Amazon's is in AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the credentials where
boto3 looks for them; without credentials buckets are read anonymously.
"""

import contextlib
import fnmatch
import functools
import glob
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from data_tools.errors import InputError, as_input_errors, check_file
from data_tools.safe_text import without_secrets

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
# Environment variables that say how places are reached.
_SETTINGS = ("AWS_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR")
_ONE_AT_A_TIME = threading.Lock()
# Requests that may be under way at once, and seconds after which one that is silent has failed.
_CONNECTIONS, _SILENCE = 256, 30
# Packages whose errors say that something elsewhere cannot be read.
_REMOTE = frozenset({"aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "s3fs"})


def is_url(place: str | os.PathLike) -> bool:
    """Whether a place is a URL."""
    return re.match(r"[a-z][a-z0-9+.-]*://", str(place)) is not None


def base_name(place: str | os.PathLike) -> str:
    """The last part of a place."""
    return without_secrets(str(place)).split("?")[0].rstrip("/").rsplit("/", 1)[-1]


def expand(patterns: Sequence[str]) -> list[str]:
    """The places that patterns stand for.

    Args:
      patterns: paths or URLs, with braces (`hcp_{0000..1999}.tar`, `{a,b}.tar`) and, but for web
        servers, `*`, `?` and `[...]`.

    Returns:
      In the order of the patterns and braces; what a `*` stands for is sorted.

    Raises:
      InputError: a pattern matches nothing, or a file is not there.
    """
    places = []
    for pattern in patterns:
        for text in _braces(str(pattern)):
            places += _matches(text)
    return places


def list_directory(place: str, pattern: str) -> list[str]:
    """The places in a directory whose names match a pattern, sorted; none if there is no such."""
    if not is_url(place):
        return [str(path) for path in sorted(Path(place).glob(pattern))]
    with remote_errors(place):
        files, path = file_system(place)
        if not files.isdir(path):
            return []
        names = sorted(files.ls(path.rstrip("/"), detail=False))
        return [
            files.unstrip_protocol(name)
            for name in names
            if fnmatch.fnmatchcase(base_name(name), pattern)
        ]


@contextlib.contextmanager
def open_binary(place: str | os.PathLike, seekable: bool = True) -> Iterator[BinaryIO]:
    """Opens a file to be read.

    Args:
      place: path or URL.
      seekable: whether jumps are needed; read from its start to its end, a file on a web server
        comes in one piece, also from servers that know no ranges.

    Raises:
      InputError: it is not there, or cannot be read.
    """
    if not is_url(place):
        if os.path.isfile(place):
            check_file(place)
        with as_input_errors(), open(place, "rb") as file:
            yield file
        return
    with remote_errors(str(place)):
        files, path = file_system(str(place))
        streamed = not seekable and str(place).startswith("http")
        with files.open(path, "rb", **({"block_size": 0} if streamed else {})) as file:
            yield file


def can_seek(place: str | os.PathLike) -> bool:
    """Whether parts of a file can be read without all that lies before them.

    Raises:
      InputError: it is not there.
    """
    if not str(place).startswith("http"):
        return True
    with remote_errors(str(place)):
        files, path = file_system(str(place))
        return bool(files.info(path).get("partial"))


def s3_options() -> dict[str, Any]:
    """How to reach a bucket: its endpoint, and whether to ask without credentials."""
    from botocore.session import Session

    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    return {
        "endpoint_url": endpoint,
        "anon": Session().get_credentials() is None,
        "config_kwargs": {
            "max_pool_connections": _CONNECTIONS,
            "connect_timeout": _SILENCE,
            "read_timeout": _SILENCE,
            "retries": {"max_attempts": 0},  # who calls knows how patient to be
        },
    }


def file_system(place: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, one for all threads of a process, and the path in it.

    Raises:
      InputError: a package is missing, or it is no URL that can be read.
    """
    scheme = place.split("://")[0]
    settings = tuple((k, v) for k, v in os.environ.items() if k.startswith(_SETTINGS))
    try:
        with _ONE_AT_A_TIME:
            files = _open_file_system(scheme, settings, os.getpid())
        return files, files._strip_protocol(place)
    except ImportError:
        raise InputError(f"Reading {place} needs fsspec: pip install 'fmrifm[remote]'.") from None
    except ValueError as error:
        raise InputError(f"{place} is no URL that can be read ({error}): check it.") from error


@functools.lru_cache(32)
def _open_file_system(scheme: str, settings: tuple, process: int) -> Any:
    # fsspec itself makes one for each thread, with connections and credentials of its own.
    import fsspec

    options = s3_options() if scheme in ("s3", "s3a") else {}
    if scheme in ("http", "https", "gs", "gcs"):
        from aiohttp import ClientTimeout

        # Long answers are welcome, silence is not.
        timeout = ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        options = {"client_kwargs": {"timeout": timeout}}
    if scheme in ("gs", "gcs"):
        # It logs with tracebacks what comes as an error, too. Listings may change at any time.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        options = {"requests_timeout": timeout, "use_listings_cache": False}
    return fsspec.filesystem(scheme, **options)


@contextlib.contextmanager
def remote_errors(place: str) -> Iterator[None]:
    """What something elsewhere refuses, as an InputError that names the place."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_remote_error(error):
            raise
        if is_absence(error):
            raise InputError(f"{place} does not exist: check the address.") from None
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise InputError(
            f"{place} cannot be read ({reason}): check the address, the network and, for a bucket, "
            f"credentials{f' and {_ENDPOINTS[0]}' if place.startswith('s3') else ''}."
        ) from error


def is_absence(error: BaseException) -> bool:
    """Whether an error says that there is no such file."""
    # fsspec says so of all that a web server refuses too, and of one that is not there.
    absent = isinstance(error, FileNotFoundError) and error_status(error) in (None, 404)
    return absent and not isinstance(error.__cause__, OSError)


def error_status(error: BaseException) -> int | None:
    """The HTTP status that an error tells of, if any."""
    for told in filter(None, (error, error.__cause__)):
        status = getattr(told, "status", None) or getattr(told, "code", None)
        if isinstance(status, int | str) and str(status).isdecimal():
            return int(status)
    return None


def is_remote_error(error: Exception) -> bool:
    """Whether an error tells of something elsewhere, rather than of a fault of ours."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    places = (type(error).__module__, last.tb_frame.f_globals["__name__"])
    return isinstance(error, OSError) or any(x.split(".")[0] in _REMOTE for x in places)


def _braces(text: str) -> list[str]:
    """What a text with braces stands for, as shells have it."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        width = max(map(len, span.groups())) if match[1].startswith("0") else 0
        choices = [f"{i:0{width}d}" for i in range(int(span[1]), int(span[2]) + 1)]
    else:
        choices = match[1].split(",")
    if not choices or len(choices) == 1 and not span:
        raise InputError(f"The braces of {text} are no {{0000..0009}} and no {{a,b}}: mend them.")
    before, after = text[: match.start()], text[match.end() :]
    found = (text for choice in choices for text in _braces(before + choice + after))
    return list(dict.fromkeys(found))  # braces in braces are opened from within, some twice


def _matches(text: str) -> list[str]:
    if not glob.has_magic(text.split("?")[0] if text.startswith("http") else text):
        if not is_url(text) and not os.path.exists(text):
            raise InputError(f"{text} does not exist: check the path.")
        return [text]
    if text.startswith("http"):
        raise InputError(f"A web server does not list what {text} means: name files with braces.")
    if is_url(text):
        with remote_errors(text):
            files, path = file_system(text)
            found = [files.unstrip_protocol(name) for name in sorted(files.glob(path))]
    else:
        found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise InputError(f"Nothing matches {text}: check the pattern.")
    return found
