"""The files and metadata of a run before its data are read: the common form of all datasets.

Finders (in `releases`) know how a release lays out its files and give such records;
`conversion` turns them into a store and knows nothing of releases.
"""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.readers.cifti import is_cifti
from data_tools.readers.surface_run import SurfaceHeader, SurfaceRun, hemisphere, other_side
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
        which the first that tells counts; None if nothing does. See `beside`.
      outliers: a table of the frames that XCP-D may have taken out of the run, or None.
      fault: why the run cannot be converted, as its finder knows it, or None.
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
    outliers: Path | None = None
    fault: str | None = None
    scrub: Callable[[str], str] | None = None

    @property
    def identity(self) -> str:
        """The key with the number of the run as BIDS compares it: run-1 is run-01."""
        return re.sub(r"(?<=_run-)0+(?=[0-9])", "", self.key)

    @property
    def files(self) -> list[Path]:
        """The files that it is known to be read from, first the run itself."""
        files = [self.path]
        if not is_cifti(self.path) and hemisphere(self.path.name) is not None:
            files.append(self.path.with_name(other_side(self.path.name)))
        files += self.sidecar_tr if isinstance(self.sidecar_tr, tuple) else ()
        files += (x for x in getattr(self.read_events, "args", ()) if isinstance(x, Path))
        return [file for file in (*files, self.confounds, self.outliers) if file is not None]

    def shown(self, message: str) -> str:
        """A message about the run as others may read it."""
        return message if self.scrub is None else self.scrub(message)

    @property
    def shown_path(self) -> Path | None:
        """The path where others may read it, else None."""
        return self.path if self.scrub is None else None


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
