"""Reads what lies beside a run, and places frames and events in time by it."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.raw_run import RunFiles
from data_tools.errors import InputError, as_input_errors, check_file
from data_tools.files.json_files import read_json
from data_tools.readers.tables import read_rows
from data_tools.timeseries.confounds import Confounds, read_confounds

# Seconds between frames may differ by so much, as sidecars round.
_TOLERANCE = 1e-3
_UNKNOWN_REFERENCE = (
    "no sidecar gives the time to which slices were corrected (StartTime, or SliceTiming), so "
    "events may be late against the frames by up to one TR"
)


@dataclasses.dataclass(frozen=True)
class Beside:
    """Confounds, events and timing of a run, read from the files beside it.

    Attributes:
      confounds: its table of confounds, if it has one.
      events: as BIDS has them, with onsets from the start of the acquisition; None without a table.
      n_untimed: events of the table that have no onset, which are left out.
      tr: seconds between frames, None where nothing says it.
      start: seconds from the start of the acquisition to the time that the first frame shows: that
        of the slice to which the others were corrected.
      remark: what the user should know of these times.
      n_listed: rows of the table of outliers, None without one.
    """

    confounds: Confounds | None
    events: list[dict[str, Any]] | None
    n_untimed: int
    tr: float | None
    start: float
    remark: str | None
    n_listed: int | None

    def check_frames(self, n_frames: int, run: RunFiles) -> None:
        """Refuses a series from which the frames that a table marks as outliers were taken out."""
        if self.n_listed not in (None, n_frames):
            raise InputError(
                f"{run.path} has {n_frames} frames and {run.outliers} has {self.n_listed} rows: "
                "where outliers were taken out, the other frames are not equally spaced in time: "
                "give the series with all frames (XCP-D: --output-type interpolated)."
            )


def read_beside(run: RunFiles) -> Beside:
    """Reads the tables and sidecars of a run.

    Raises:
      InputError: one of them is damaged, or its frames are not equally spaced in time.
    """
    if run.fault is not None:
        raise InputError(run.fault)
    with as_input_errors():
        n_listed = None if run.outliers is None else len(read_rows(run.outliers))
        confounds = None if run.confounds is None else read_confounds(run.confounds)
        events = None if run.read_events is None else run.read_events()
        sidecars, unread = _read_sidecars(run)
        tr, start = _read_times(run, sidecars)
    n_events = len(events or ())
    if events:
        events = [event for event in events if event["onset"] is not None]
    remarks = [unread, _UNKNOWN_REFERENCE if events and start is None else None]
    remark = "; ".join(filter(None, remarks)) or None
    n_untimed = n_events - len(events or ())
    return Beside(confounds, events, n_untimed, tr, start or 0.0, remark, n_listed)


def read_sidecar_tr(run: RunFiles) -> float | None:
    """Seconds between frames as something beside a run says, None if nothing does."""
    return _read_times(run, _read_sidecars(run)[0])[0]


def place_events(
    events: list[dict[str, Any]],
    scanned: float,
    name: str,
    *,
    first: float = 0.0,
    last: float | None = None,
    start: float = 0.0,
) -> tuple[list[dict[str, Any]], int]:
    """Events counted from the first frame that was kept, and how many were outside of the scan.

    Args:
      events: with onsets in seconds from the start of the acquisition.
      scanned: how long the run was scanned, in seconds.
      name: of the run, for errors.
      first, last: the part of the scan that is kept: events that begin in it stay.
      start: of `Beside`, of the first frame that was scanned.

    Raises:
      InputError: more than half of the events are outside of the scan.
    """
    inside = [event for event in events if 0 <= event["onset"] < scanned]
    n_outside = len(events) - len(inside)
    if 2 * n_outside > len(events):
        worst = max((event["onset"] for event in events), key=abs)
        raise InputError(
            f"{name} lasts {scanned:g} s and {n_outside} of its {len(events)} events are outside "
            f"of it, such as one at {worst:g} s: give the events of this run, with onsets in "
            "seconds."
        )
    return [
        event | {"onset": round(event["onset"] - first - start, 6)}
        for event in inside
        if first <= event["onset"] < (scanned if last is None else last)
    ], n_outside


def _read_sidecars(run: RunFiles) -> tuple[dict[Path, dict[str, Any]], str | None]:
    """The sidecars of a run, the nearest first, and a remark on one that was not fetched.

    The header of the run may say all that is needed, so that one does not stop the run.
    """
    sidecars, unread = {}, None
    for path in run.sidecar_tr if isinstance(run.sidecar_tr, tuple) else ():
        try:
            check_file(path)
        except InputError as error:
            unread = f"this sidecar was not read: {error}"
        else:
            sidecars[path] = read_json(path)
    return sidecars, unread


def _read_times(
    run: RunFiles, sidecars: dict[Path, dict[str, Any]]
) -> tuple[float | None, float | None]:
    """The TR of a run, None if nothing says it, and `Beside.start`, None if it is not known."""
    if not isinstance(run.sidecar_tr, tuple):
        return run.sidecar_tr, 0.0

    def told(name: str, is_list: bool = False) -> Any:
        """The value in the first of the sidecars that has one; the nearest come first."""
        for path, sidecar in sidecars.items():
            value = sidecar.get(name)
            if value in (None, "n/a"):
                continue
            numbers = value if is_list and isinstance(value, list) else [value]
            if (is_list and len(numbers) < 2) or not all(map(_is_number, numbers)):
                what = "list of numbers" if is_list else "number"
                raise InputError(f"{name} in {path} is no {what}: mend it.")
            return np.array(value, float) if is_list else float(value)
        return None

    tr, volumes = told("RepetitionTime") or None, told("VolumeTiming", is_list=True)
    start = told("StartTime")
    if volumes is not None:
        steps = np.diff(volumes)
        if np.abs(steps - (tr or steps[0])).max() > _TOLERANCE:
            raise InputError(
                f"VolumeTiming in the sidecars of {run.path} has frames {steps.min():g} to "
                f"{steps.max():g} s apart{f' and a TR of {tr:g} s' if tr else ''}: frames that are "
                "not equally spaced in time cannot be converted, leave the run out."
            )
        tr = tr or round(float(np.median(steps)), 6)
    corrected = any(sidecar.get("SliceTimingCorrected") is True for sidecar in sidecars.values())
    if start is None and corrected:
        # AFNI, with which fMRIPrep corrects slices, takes the mean; before version 21 no StartTime
        # was written.
        slices = told("SliceTiming", is_list=True)
        fits = slices is not None and slices.max() <= (tr or np.inf)
        start = round(statistics.fmean(slices), 6) if fits else None
    elif start is None:
        start = 0.0
    if start is not None and volumes is not None:
        start += float(volumes[0])
    return tr, start


def _is_number(value: Any) -> bool:
    # A whole number of JSON may be too large for any type of NumPy.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < float(np.finfo(np.float64).max)
