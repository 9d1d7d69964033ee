"""A run on the surface, whatever file it comes from: its header and its time series.

CIFTI files hold voxels below the cortex too, which only parcellations of all grayordinates need.
Letters in array names: T frames, X vertices of a hemisphere, G voxels below the cortex.
"""

import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError

from data_tools.errors import InputError, check_file, describe_os_error

# Spaces by their number of vertices a hemisphere.
SPACES = {
    2562: "fsaverage4",
    10242: "fsaverage5",
    40962: "fsaverage6",
    163842: "fsaverage",
    32492: "fsLR-32k",
    59292: "fsLR-59k",
}


class _OnSurface:
    """Names the space of something with `n_vertices`: left, right, and voxels below the cortex."""

    n_vertices: tuple[int, int, int]

    @property
    def space(self) -> str:
        """The space that this number of vertices belongs to."""
        return space_name(*self.n_vertices[:2])

    @property
    def grayordinates(self) -> str:
        """The space, and how many voxels there are below the cortex."""
        return space_name(*self.n_vertices)


@dataclasses.dataclass(frozen=True)
class SurfaceHeader(_OnSurface):
    """The header of a run.

    Attributes:
      n_frames: number of frames.
      left, right: number of vertices of each hemisphere.
      tr: seconds between frames, None where it does not say.
      voxels: number of voxels below the cortex.
      voxels_sha256: checksum of their structures and places, "" where there are none.
    """

    n_frames: int
    left: int
    right: int
    tr: float | None
    voxels: int = 0
    voxels_sha256: str = ""

    @property
    def n_vertices(self) -> tuple[int, int, int]:
        """Of the left and the right hemisphere, and voxels below."""
        return self.left, self.right, self.voxels


@dataclasses.dataclass(frozen=True, eq=False)
class SurfaceRun(_OnSurface):
    """The time series of the vertices of both hemispheres.

    Attributes:
      left: (T, X_left) float32.
      right: (T, X_right) float32.
      tr: seconds between frames as the header says, None where it does not.
      voxels: (T, G) float32 below the cortex, None where they are not wanted or not there.
      voxels_sha256: as in `SurfaceHeader`.
    """

    left: np.ndarray
    right: np.ndarray
    tr: float | None
    voxels: np.ndarray | None = None
    voxels_sha256: str = ""

    @property
    def n_frames(self) -> int:
        return len(self.left)

    @property
    def n_vertices(self) -> tuple[int, int, int]:
        """Of the left and the right hemisphere, and voxels below that were read."""
        n_voxels = 0 if self.voxels is None else self.voxels.shape[1]
        return self.left.shape[1], self.right.shape[1], n_voxels

    def series(self, window: slice) -> np.ndarray:
        """(t, X_left + X_right [+ G]) the values of some frames, a copy."""
        parts = (self.left, self.right, self.voxels)
        return np.concatenate([part[window] for part in parts if part is not None], axis=1)


def told_tr(tr: float | None) -> float | None:
    """A TR without the rounding of a float32 header; 0 means that it is not known."""
    return round(tr, 6) if tr and np.isfinite(tr) else None


# Of images; nibabel says of damaged ones, and of other files, that it does not know them.
_ENDINGS = (".nii", ".nii.gz", ".gii", ".gii.gz", ".mgz", ".mgh")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns any error while a file is read into one sentence."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            # nibabel warns of harmless oddities of headers, once a file.
            warnings.simplefilter("ignore")
            yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(describe_os_error(error)) from error
    except Exception as error:
        if isinstance(error, ImageFileError) and not path.name.lower().endswith(_ENDINGS):
            raise InputError(
                f"{path} is of a kind that is not read here: give NIfTI or CIFTI (.nii), GIFTI "
                "(.gii) or FreeSurfer's .mgz, or .annot for parcels."
            ) from error
        # Parsers of half a dozen formats meet truncated files with as many exceptions.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read, it is damaged or incomplete ({reason}): copy it again."
        ) from error


def space_name(n_left: int, n_right: int, n_voxels: int = 0) -> str:
    """The space that these numbers of vertices and voxels belong to."""
    below = f" with {n_voxels:,} voxels below the cortex" if n_voxels else ""
    if n_left == n_right and n_left in SPACES:
        return SPACES[n_left] + below
    return f"a mesh of {n_left:,} + {n_right:,} vertices{below}"


_OTHER = {"L": "R", "lh": "rh", "LH": "RH", "left": "right", "Left": "Right", "LEFT": "RIGHT"}
_SIDES = dict.fromkeys(_OTHER, "left") | dict.fromkeys(_OTHER.values(), "right")
_OTHER |= {right: left for left, right in _OTHER.items()}
_SIGN = re.compile(rf"(?<![A-Za-z0-9])(?:hemi-)?({'|'.join(_OTHER)})(?![A-Za-z0-9])")
_ENDING = re.compile(
    r"(_bold)?(\.(func|shape|label|surf))?\.(gii|mgz|mgh|nii)(\.gz)?$", re.IGNORECASE
)


def hemisphere(name: str) -> str | None:
    """'left', 'right' or None for the name of a file without its directory."""
    found = _find(name)
    return found and _SIDES[found[1]]


def other_side(name: str) -> str:
    """The name of the other hemisphere's file beside that of one."""
    found = _find(name)
    if found is None:
        raise without_side(name)
    return name[: found.start(1)] + _OTHER[found[1]] + name[found.end() :]


def without_side(file: str | os.PathLike) -> InputError:
    """The error for a file of one hemisphere whose name does not say which."""
    return InputError(
        f"{file} does not say its hemisphere, so the other cannot be found: name the files of a "
        "pair like NAME.lh.mgz and NAME.rh.mgz, or NAME_hemi-L.func.gii."
    )


def without_hemisphere(name: str) -> str:
    """The name without the sign of the hemisphere and the separator before it."""
    found = _find(name)
    if not found:
        return name
    start, end = found.span()
    # Of "a.lh.mgz" remains "a.mgz", of "lh.a.mgz" remains "a.mgz".
    return name[: max(0, start - 1)] + name[end if start else end + 1 :]


def _find(name: str) -> re.Match[str] | None:
    """The sign of the hemisphere in a name, in which tasks or people may be called "left" too."""
    end, in_bids = len(_ENDING.sub("", name)), re.match("sub-|.*_sub-", name)

    def is_value(sign: re.Match[str]) -> bool:
        return name[: sign.start()].endswith("-")

    def certainty(sign: re.Match[str]) -> tuple[bool | int, ...]:
        freesurfer = sign.start() == 0 and sign[0] in ("lh", "rh") and name[sign.end() :][:1] == "."
        last = sign.end() == end and not is_value(sign)
        return "hemi-" in sign[0], freesurfer, last, not is_value(sign), sign.start()

    # The value of another entity, as in task-left, is no hemisphere.
    signs = (sign for sign in _SIGN.finditer(name) if not (in_bids and is_value(sign)))
    return max(signs, key=certainty, default=None)
