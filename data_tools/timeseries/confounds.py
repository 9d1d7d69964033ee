"""Confounds of a run: fMRIPrep's table of them, which to regress, and how much the head moved.

fMRIPrep estimates what disturbs a run (`*_desc-confounds_timeseries.tsv`, before version 20.2
`*_desc-confounds_regressors.tsv`) and leaves the removal to its user. Letters in array names:
T frames, C columns.
"""

import dataclasses
import difflib
import fnmatch
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from data_tools.errors import InputError, as_input_errors
from data_tools.files.json_files import read_json
from data_tools.readers.tables import UNKNOWN, read_rows, to_number

# The six of a rigid body in motion.
PARAMETERS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


def _expand(*names: str) -> tuple[str, ...]:
    """Each column with its derivative and the squares of both."""
    terms = ("", "_derivative1", "_power2", "_derivative1_power2")
    return tuple(name + term for name in names for term in terms)


# What the field regresses, as columns of fMRIPrep's table (`select_confounds` has the sources).
PRESETS: dict[str, tuple[str, ...]] = {
    "motion6": PARAMETERS,
    "motion24": _expand(*PARAMETERS),
    "gsr": ("global_signal",),
    "simple": (*_expand(*PARAMETERS), "white_matter", "csf", "cosine*"),
    "acompcor": (*_expand(*PARAMETERS), "a_comp_cor_*", "cosine*"),
    "36p": _expand(*PARAMETERS, "white_matter", "csf", "global_signal"),
}

# Of the combined mask, for the preset acompcor.
_N_COMPONENTS = 5
# The slowest drift that fMRIPrep models, in seconds: a shorter run has no cosines.
_CUTOFF = 128.0
# Columns kept frame by frame, and the beginning of the names of their figures.
_FRAME_COLUMNS = {
    "framewise_displacement": "fd",
    "std_dvars": "std_dvars",
    "global_signal": "global_signal",
}
# A frame has moved when its framewise displacement is larger, in mm (Power et al. 2012).
_MOVED = 0.5
_DIGITS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Confounds:
    """A table with a row a frame.

    Attributes:
      names: of the columns.
      values_TxC: (T, C) float64, NaN where the table has no number.
      path: of the file, for errors.
    """

    names: tuple[str, ...]
    values_TxC: np.ndarray
    path: str | os.PathLike = "The table of confounds"

    def part(self, frames: slice) -> Self:
        """The table of a part of the run."""
        return dataclasses.replace(self, values_TxC=self.values_TxC[frames])

    def matching(self, pattern: str) -> list[int]:
        """Indices of the columns whose names match, with `*`, `?` and `[...]` as in a shell."""
        return [i for i, name in enumerate(self.names) if fnmatch.fnmatchcase(name, pattern)]


def read_confounds(path: str | os.PathLike) -> Confounds:
    """Reads a table of fMRIPrep; "n/a" and other text become NaN.

    Raises:
      InputError: the file is no table or has no header, or a text stands where frames are judged.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} has no rows: give the confounds table that fMRIPrep wrote.")
    names = tuple(rows[0][1])
    if any(to_number(name) is not None for name in names):
        raise InputError(f"{path} has no header: name the columns in its first line.")
    for number, row in rows:
        for name in _FRAME_COLUMNS.keys() & row.keys():
            known = row[name].strip(" +-").lower() not in {*UNKNOWN, "inf"}
            if known and to_number(row[name]) is None:
                raise InputError(
                    f"Line {number} of {path} has '{row[name]}' as its {name}: write a number or "
                    "n/a."
                )
    values = [[to_number(text) for text in row.values()] for _, row in rows]
    return Confounds(names, np.array(values, float), path)


def check_patterns(wanted: Iterable[str], paths: Sequence[str | os.PathLike]) -> None:
    """Refuses wanted patterns that match a column in none of the tables of all runs.

    Some columns, such as those of outliers, are only in the tables of runs that moved.
    """
    left = {item for item in wanted if _is_pattern(item)}
    for path in paths:
        if not left:
            return
        if Path(path).is_file():
            with as_input_errors(), open(path, encoding="utf-8-sig", errors="replace") as file:
                names = [name.strip() for name in file.readline().split("\t")]
            left = {item for item in left if not fnmatch.filter(names, item)}
    if left and paths:
        raise InputError(
            f"'{min(left)}' matches no column in the tables of confounds of all {len(paths)} runs "
            "that have one: give others with --confounds."
        )


def select_confounds(
    confounds: Confounds,
    wanted: Sequence[str],
    seconds: float = math.inf,
    matched_elsewhere: bool = False,
) -> np.ndarray:
    """The regressors that are wanted, for `timeseries.denoise`.

    Presets:
      motion6: the six parameters of rigid head motion.
      motion24: these, their derivatives, and the squares of both (after Friston et al. 1996,
        doi:10.1002/mrm.1910350312).
      gsr: the global signal, to be added to another preset.
      simple: motion24, white matter, CSF, and the cosines of a high-pass at 128 s (after Fox et
        al. 2005, doi:10.1073/pnas.0504136102; what nilearn's `load_confounds_strategy` calls
        'simple').
      acompcor: motion24, the first five components of the combined white matter and CSF mask
        (Behzadi et al. 2007, doi:10.1016/j.neuroimage.2007.04.042; five after Muschelli et al.
        2014, doi:10.1016/j.neuroimage.2014.03.028), and the cosines that fMRIPrep had removed
        before it computed them. Versions of fMRIPrep number the masks in different orders, so the
        mask is that in the JSON beside the table.
      36p: motion24, and white matter, CSF and global signal expanded in the same way (Ciric et
        al. 2017, doi:10.1016/j.neuroimage.2017.03.020).

    A derivative has no value in the first frame, where it takes the second's, as in nilearn: a
    frame kept with a likely value does less harm than a jump to zero, and dropping it would shift
    the run against its events. Columns that are constant, or equal to another, are left out, as
    they explain nothing.

    The table comes without the rows of dropped frames; columns may be wanted as patterns, such as
    `cosine*`. In a run whose steady part lasts less than 128 `seconds` presets need no cosines. A
    pattern may match nothing here if it is known to match in another run (`check_patterns`).
    Returns (T, C') float64, finite, in the order wanted.
    """
    columns: dict[int, None] = {}
    for item in wanted:
        for pattern in PRESETS.get(item, (item,)):
            found = confounds.matching(pattern)
            if item == "acompcor" and pattern.startswith("a_comp_cor"):
                found = _combined_components(confounds, found)
            too_short = pattern == "cosine*" and seconds < _CUTOFF
            if not (found or too_short or (matched_elsewhere and _is_pattern(item))):
                raise InputError(_not_found(confounds, item, pattern))
            columns |= dict.fromkeys(found)
    x_TxC = confounds.values_TxC[:, list(columns)]
    if len(x_TxC) > 1:
        x_TxC[0] = np.where(np.isnan(x_TxC[0]), x_TxC[1], x_TxC[0])
    for column, finite in zip(columns, np.isfinite(x_TxC).all(0), strict=True):
        if not finite:
            raise InputError(
                f"Column '{confounds.names[column]}' of {confounds.path} is not a number in every "
                "frame after the first: leave it out of --confounds, or mend the table."
            )
    x_TxC = x_TxC[:, (x_TxC != x_TxC[:1]).any(0)]
    first_of_equals = np.unique(x_TxC, axis=1, return_index=True)[1] if x_TxC.size else []
    return x_TxC[:, np.sort(first_of_equals).astype(int)]


def _combined_components(confounds: Confounds, found: Sequence[int]) -> list[int]:
    """The first components of the combined mask, among the columns of all components."""
    path = Path(confounds.path)
    described = path.with_suffix(".json")
    about = read_json(described) if described.is_file() else {}
    masks = {name: x.get("Mask") for name, x in about.items() if isinstance(x, dict)}
    # By number, of which the largest may have three digits.
    found = sorted(found, key=lambda i: (len(confounds.names[i]), confounds.names[i]))
    combined = [i for i in found if masks.get(confounds.names[i]) == "combined"]
    if combined or not found:
        found = combined
    # From version 21 on components of single masks are called c_comp_cor and w_comp_cor, and
    # before 20.2, when the table had another name, the combined mask came first.
    elif path.name.endswith("_timeseries.tsv") and not confounds.matching("[cw]_comp_cor_*"):
        raise InputError(
            f"{described}, which says the mask of each component of {path.name}, is missing or "
            "does not name the combined mask: put fMRIPrep's file there, or name columns in place "
            "of the preset 'acompcor'."
        )
    return found[:_N_COMPONENTS]


def check_n_frames(confounds: Confounds, n_frames: int, run: str | os.PathLike) -> None:
    """Refuses a table that does not have a row for each of the `n_frames` frames of a run."""
    if len(confounds.values_TxC) != n_frames:
        raise InputError(
            f"{confounds.path} has {len(confounds.values_TxC)} rows and {run} has {n_frames} "
            "frames: give the table that belongs to the run, or leave the run out."
        )


def n_dummies(confounds: Confounds | None, wanted: int | str, name: str = "The run") -> int:
    """The number of frames to drop at the beginning, before the signal is steady.

    `wanted` is a number, or 'auto' for the leading frames that fMRIPrep marked, each in a column
    `non_steady_state_outlierXX` of its own; only that needs the table of confounds.
    """
    if wanted == "auto":
        if confounds is None:
            raise InputError(
                f"{name} has no table of confounds, which --drop-dummies=auto looks into: give a "
                "number."
            )
        marks = confounds.values_TxC[:, confounds.matching("non_steady_state_outlier*")]
        steady = ~(marks == 1).any(1)
        return int(steady.argmax()) if steady.any() else len(steady)
    if isinstance(wanted, str) or wanted < 0:
        raise InputError(
            f"--drop-dummies={wanted} is neither 'auto' nor a number of frames: give one of them."
        )
    return wanted


def motion_figures(confounds: Confounds) -> dict[str, float]:
    """How much a run moved, as far as the table tells: one number a key, rounded to 4 digits.

    Returns:
      fd_mean, fd_max: framewise displacement in mm; fd_share_above_0.5: share of the frames with
      more than 0.5 mm (Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018).
      std_dvars_mean: standardised DVARS, which unlike DVARS compares across scanners.
      global_signal_mean, global_signal_std: in the units of the run, population std.
      Frames without a value do not count.
    """
    figures: dict[str, float] = {}
    for name, series in _frame_series(confounds).items():
        x = series[np.isfinite(series)]
        if not x.size:
            continue
        short = _FRAME_COLUMNS[name]
        figures[f"{short}_mean"] = x.mean()
        if short == "fd":
            figures["fd_max"] = x.max()
            figures[f"fd_share_above_{_MOVED}"] = (x > _MOVED).mean()
        elif short == "global_signal":
            figures["global_signal_std"] = x.std()
    return {name: round(float(value), _DIGITS) for name, value in figures.items()}


def frame_figures(confounds: Confounds) -> dict[str, list[float | None]]:
    """The same series frame by frame, rounded to 4 digits; None where there is no value.

    Returns:
      framewise_displacement, std_dvars and global_signal, as far as the table has them.
    """
    return {
        name: [round(x, _DIGITS) if math.isfinite(x) else None for x in series.tolist()]
        for name, series in _frame_series(confounds).items()
    }


def _frame_series(confounds: Confounds) -> dict[str, np.ndarray]:
    return {
        name: confounds.values_TxC[:, confounds.names.index(name)]
        for name in _FRAME_COLUMNS
        if name in confounds.names
    }


def _not_found(confounds: Confounds, item: str, pattern: str) -> str:
    path = confounds.path
    if item in PRESETS:
        return (
            f"{path} has no column '{pattern}', which the preset '{item}' needs: give another "
            "preset or columns of this table with --confounds."
        )
    close = difflib.get_close_matches(item, [*confounds.names, *PRESETS], n=3, cutoff=0)
    return (
        f"'{item}' is neither a preset nor a column of {path}: give others with --confounds, such "
        f"as {', '.join(close)}."
    )


def _is_pattern(item: str) -> bool:
    return any(sign in item for sign in "*?[")
