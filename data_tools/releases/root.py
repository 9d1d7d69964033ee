"""What the finders of published releases share: their root, and what they say of an empty one."""

import os
from pathlib import Path

from data_tools.errors import InputError


def open_root(root: str | os.PathLike) -> Path:
    """The directory that holds a release, absolute: other machines may read its files.

    Raises:
      InputError: there is no such directory.
    """
    root = Path(root).absolute()
    if not root.is_dir():
        raise InputError(f"{root} is no directory: give the one that holds the release.")
    return root


def nothing_found(root: Path, layout: str) -> InputError:
    """The error for a release that is not there, or from which no run is left."""
    return InputError(
        f"No run was found under {root}, or none that was asked for: expected {layout}."
    )
