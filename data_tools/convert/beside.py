"""Places the events that lie beside a run in time."""

from typing import Any

from data_tools.errors import InputError


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
