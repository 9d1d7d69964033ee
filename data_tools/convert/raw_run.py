"""The files and metadata of a run before its data are read: the common form of all datasets.

Finders (in `releases`) know how a release lays out its files and give such records;
`conversion` turns them into a store and knows nothing of releases.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.errors import InputError, check_file
from data_tools.readers.surface_run import SurfaceHeader, SurfaceRun
from data_tools.readers.surfaces import read_surface_header, read_surface_run
from data_tools.readers.volume_run import (
    VolumeHeader,
    VolumeRun,
    read_volume_header,
    read_volume_run,
)

# Of `RunFiles` that are volumes.
VOLUME_READERS = {"read": read_volume_run, "read_header": read_volume_header}


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of one run. Can be sent to other processes, so its functions must be picklable.

    Attributes:
      key: name of the run, such as "sub-01_ses-02_task-rest_run-01".
      path: what it is read from; of a pair of hemispheres the left, or an archive.
      fields: metadata for the run table: subject, session, task, ...
      read: reads the run from the path, and what else a map asks for (`SpaceMap.reading`).
      read_header: reads what its header tells from the path.
      read_events: gives its events as BIDS has them (onset, duration, trial_type, ...), or None.
      confounds: its table of confounds, as fMRIPrep writes it, or None.
      sidecar_tr: seconds between frames as something beside it says: a number, or JSON sidecars of
        which the first that tells counts; None if nothing does.
      people: labels of the table of participants that the run belongs to.
      scrub: takes what names a person out of a message, for runs under pseudonyms: then only the
        paths to their files do. None for other runs.
    """

    key: str
    path: Path
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    read: Callable[..., SurfaceRun | VolumeRun] = read_surface_run
    read_header: Callable[[str | os.PathLike], SurfaceHeader | VolumeHeader] = read_surface_header
    read_events: Callable[[], list[dict[str, Any]]] | None = None
    confounds: Path | None = None
    sidecar_tr: float | tuple[Path, ...] | None = None
    people: frozenset[str] = frozenset()
    scrub: Callable[[str], str] | None = None

    def shown(self, message: str) -> str:
        """A message about the run as others may read it."""
        return message if self.scrub is None else self.scrub(message)

    @property
    def shown_path(self) -> Path | None:
        """The path where others may read it, else None."""
        return self.path if self.scrub is None else None


def sidecar_tr(run: RunFiles) -> float | None:
    """Seconds between frames as something beside a run says, None if nothing does."""
    if not isinstance(run.sidecar_tr, tuple):
        return run.sidecar_tr
    for path in run.sidecar_tr:
        if _not_fetched(path):
            continue
        try:
            value = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is no JSON ({error}): mend it.") from error
        tr = value.get("RepetitionTime") if isinstance(value, dict) else None
        if tr and isinstance(tr, int | float):
            return float(tr)
    return None


def unread_sidecars(run: RunFiles) -> str | None:
    """What the user should know of sidecars whose content was not fetched, None if there are none.

    The header may say all that is needed, so they do not stop a run.
    """
    paths = run.sidecar_tr if isinstance(run.sidecar_tr, tuple) else ()
    return next(filter(None, map(_not_fetched, paths)), None)


def _not_fetched(path: Path) -> str | None:
    try:
        check_file(path)
    except InputError as error:
        return f"this sidecar was not read: {error}"
    return None


def open_root(root: str | os.PathLike) -> Path:
    """The directory that holds a release, absolute: other machines may read its files."""
    root = Path(root).absolute()
    if not root.is_dir():
        raise InputError(f"{root} is no directory: give the one that holds the release.")
    return root


def nothing_found(root: Path, layout: str) -> InputError:
    """The error for a release that is not there, or from which no run is left."""
    return InputError(
        f"No run was found under {root}, or none that was asked for: expected {layout}."
    )
