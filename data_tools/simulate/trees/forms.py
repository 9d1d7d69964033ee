"""Trees of raw runs: what their forms have in common, and the files that they are made of.

A form writes its tables once and then, unit by unit, the files of one or a few runs; units may be
written in any order by many processes. Letters in array names: T frames, X vertices.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from data_tools.reports.text_tables import as_csv
from data_tools.simulate.study import Study

_STRUCTURES = ("CortexLeft", "CortexRight")


@dataclasses.dataclass(frozen=True)
class Form:
    """How one kind of tree is written.

    Attributes:
      units: (study) -> what `write_unit` takes, each a tuple that begins with the subject's index.
      write_unit: (directory, study, *unit); writes the files of a unit.
      write_tables: (directory, study); writes what the tree says of itself and its subjects, if
        it says anything.
      subject_name: (index) -> what the tree calls a subject, if not by its own name.
      own_trs: whether the form has TRs of its own, whatever those of the study.
      unit: what a unit is, for the progress bar.
    """

    units: Callable[[Study], Sequence[tuple]]
    write_unit: Callable[..., None]
    write_tables: Callable[[Path, Study], None] | None = None
    subject_name: Callable[[int], str] | None = None
    own_trs: bool = False
    unit: str = "run"


def run_units(study: Study) -> list[tuple[int, str, int]]:
    """Index of the subject, task and number of every run of a study."""
    return [(index, *name) for index in range(study.subjects) for name in study.run_names]


def cortex_axis(cortex: Sequence[np.ndarray]) -> BrainModelAxis:
    """The CIFTI axis of both cortices, each given as (X,) bool without the medial wall."""
    left, right = (
        BrainModelAxis.from_mask(mask, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for mask, side in zip(cortex, ("LEFT", "RIGHT"), strict=True)
    )
    return left + right


def cifti_bytes(series: np.ndarray, axis: Callable[[], BrainModelAxis], tr: float) -> bytes:
    """The file of a CIFTI time series: (T, grayordinates) float32, which `axis` names, at a TR."""
    # All runs on the same axes begin alike, and making that takes longer than to write the data.
    beginning = _cifti_beginning(axis, len(series), tr)
    return beginning + np.ascontiguousarray(series.T, "<f4").data


@functools.lru_cache(maxsize=8)
def _cifti_beginning(axis: Callable[[], BrainModelAxis], n_frames: int, tr: float) -> bytes:
    """Header and axes: all of a file but its data, which are last."""
    data = np.zeros((n_frames, axis().size), np.float32)
    image = Cifti2Image(data, (SeriesAxis(0, tr, n_frames), axis()))
    image.nifti_header.set_intent("ConnDenseSeries")
    return image.to_bytes()[: -data.nbytes]


def save_gifti(path: Path, series_TxX: np.ndarray, side: int, tr: float | None = None) -> None:
    """Writes the time series of the left (0) or right (1) hemisphere.

    There is one array a frame, each with the TR in milliseconds, as FreeSurfer writes them, or
    without, as Workbench does.
    """
    step = None if tr is None else GiftiMetaData({"TimeStep": f"{tr * 1000:g}"})
    # Noise hardly compresses: plain base64 is as small, and written in a tenth of the time.
    frames = [
        GiftiDataArray(x, "NIFTI_INTENT_TIME_SERIES", encoding="GIFTI_ENCODING_B64BIN", meta=step)
        for x in series_TxX
    ]
    whose = GiftiMetaData({"AnatomicalStructurePrimary": _STRUCTURES[side]})
    nibabel.save(GiftiImage(darrays=frames, meta=whose), path)


def write_table(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = "\t") -> None:
    """Writes rows, all with the keys of the first, under a header."""
    text = as_csv([rows[0], *(row.values() for row in rows)], delimiter)
    path.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
