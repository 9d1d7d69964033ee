"""What is known of a run before its data are read: the common form of all datasets.

Finders (in `releases`) know how a release lays out its files and give such records;
`conversion` turns them into a store and knows nothing of releases.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.releases.bids_tables import read_repetition_time
from data_tools.surface_run import SurfaceHeader, SurfaceRun
from data_tools.surfaces import read_surface_header, read_surface_run
from data_tools.volume_run import VolumeHeader, VolumeRun


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
    """

    key: str
    path: Path
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    read: Callable[..., SurfaceRun | VolumeRun] = read_surface_run
    read_header: Callable[[str | os.PathLike], SurfaceHeader | VolumeHeader] = read_surface_header
    read_events: Callable[[], list[dict[str, Any]]] | None = None
    confounds: Path | None = None
    sidecar_tr: float | tuple[Path, ...] | None = None


def sidecar_tr(run: RunFiles) -> float | None:
    """Seconds between frames as something beside a run says, None if nothing does.

    Raises:
      InputError: its sidecar is no JSON.
    """
    if not isinstance(run.sidecar_tr, tuple):
        return run.sidecar_tr
    return next(filter(None, map(read_repetition_time, run.sidecar_tr)), None)
