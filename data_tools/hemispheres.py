"""Which hemisphere a file holds, by its name: `lh.NAME`, `NAME_hemi-L`, `NAME.L.func.gii`, ..."""

import re

# From the surest sign to the weakest; the last match in a name counts (a subject may be "L").
_SIGNS = (
    ("hemi-L", "hemi-R"),
    ("lh", "rh"),
    ("LH", "RH"),
    ("left", "right"),
    ("Left", "Right"),
    ("LEFT", "RIGHT"),
    ("L", "R"),
)


def hemisphere(name: str) -> str | None:
    """'left', 'right' or None for the name of a file without its directory."""
    found = _find(name)
    return found and found[1]


def right_of(name: str) -> str:
    """The name of the right hemisphere's file beside that of the left."""
    match, _, (_, right) = _find(name)
    return name[: match.start()] + right + name[match.end() :]


def left_of(name: str) -> str:
    """The name of the left hemisphere's file beside that of the right."""
    match, _, (left, _) = _find(name)
    return name[: match.start()] + left + name[match.end() :]


def without_hemisphere(name: str) -> str:
    """The name without the sign of the hemisphere and the separator before it."""
    found = _find(name)
    if not found:
        return name
    start, end = found[0].span()
    # Of "a.lh.mgz" remains "a.mgz", of "lh.a.mgz" remains "a.mgz".
    return name[: max(0, start - 1)] + name[end if start else end + 1 :]


def _find(name: str) -> tuple[re.Match[str], str, tuple[str, str]] | None:
    for pair in _SIGNS:
        for sign, side in zip(pair, ("left", "right"), strict=True):
            matches = list(re.finditer(rf"(?<![A-Za-z0-9]){sign}(?![A-Za-z0-9])", name))
            if matches:
                return matches[-1], side, pair
    return None
