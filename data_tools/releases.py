"""What the finders of published releases share: the root, and choosing by names."""

import fnmatch
import os
from collections.abc import Callable
from pathlib import Path

from data_tools.errors import InputError


def open_root(root: str | os.PathLike) -> Path:
    """The directory that holds a release.

    Raises:
      InputError: there is no such directory.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is no directory: give the one that holds the release.")
    return root


def nothing_found(root: Path, layout: str) -> InputError:
    """The error for a release that is not there, or from which no run is left."""
    return InputError(
        f"No run was found under {root}, or none that was asked for: expected {layout}."
    )


def chooser(text: str | None) -> Callable[[str], bool]:
    """Tells which names are meant.

    Args:
      text: names or patterns with `*`, `?` and `[...]`, separated by commas; or the path of a file
        with one name a word; None means all names.
    """
    if text is None:
        return lambda name: True
    if os.path.isfile(text):
        listed = frozenset(Path(text).read_text().split())
        return lambda name: name in listed
    patterns = [pattern.strip() for pattern in text.split(",")]
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
