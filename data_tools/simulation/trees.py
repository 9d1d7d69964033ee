"""Writes simulated runs as the CIFTI and GIFTI files of a BIDS-like tree."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData

from data_tools.simulation.brain import draw_subject
from data_tools.simulation.runs import SimulatedRun
from data_tools.simulation.study import Study


def write_tree_tables(study: Study, directory: Path) -> None:
    """Writes what a BIDS dataset says about itself and its participants."""
    subjects = (draw_subject(study, index) for index in range(study.subjects))
    rows = [{"participant_id": f"sub-{s.name}", "age": s.age, "sex": s.sex} for s in subjects]
    _write_table(directory / "participants.tsv", rows)
    _write_json(
        directory / "dataset_description.json",
        {
            "Name": "simulated",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "data_tools.simulate"}],
        },
    )


def write_gifti(directory: Path, run: SimulatedRun) -> None:
    """Writes a run as a pair of GIFTI time series, with sidecars and events."""
    stem = _prepare(directory, run)
    halves = np.split(run.series, 2, axis=1)
    for side, structure, series in zip("LR", ("CortexLeft", "CortexRight"), halves, strict=True):
        # One array a frame, each with the TR in milliseconds, as FreeSurfer writes them.
        step = GiftiMetaData({"TimeStep": f"{run.tr * 1000:g}"})
        frames = [GiftiDataArray(x, "NIFTI_INTENT_TIME_SERIES", meta=step) for x in series]
        whose = GiftiMetaData({"AnatomicalStructurePrimary": structure})
        name = f"{stem}_hemi-{side}_space-fsaverage5_bold"
        nibabel.save(GiftiImage(darrays=frames, meta=whose), f"{name}.func.gii")
        _write_sidecar(name, run)


def write_cifti(directory: Path, run: SimulatedRun) -> None:
    """Writes a run as a CIFTI dense time series of both cortices, with sidecar and events."""
    name = f"{_prepare(directory, run)}_space-fsaverage5_bold"
    cortex = run.series.any(axis=0)  # CIFTI leaves the medial wall out
    left, right = (
        BrainModelAxis.from_mask(mask, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for mask, side in zip(np.split(cortex, 2), ("LEFT", "RIGHT"), strict=True)
    )
    axes = (SeriesAxis(0, run.tr, len(run.series)), left + right)
    image = Cifti2Image(run.series[:, cortex], axes)
    image.nifti_header.set_intent("ConnDenseSeries")
    nibabel.save(image, f"{name}.dtseries.nii")
    _write_sidecar(name, run)


def _prepare(directory: Path, run: SimulatedRun) -> Path:
    """Makes the folder of a run, writes its events, and returns how its other files begin."""
    folder = directory / f"sub-{run.subject.name}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    if run.events:
        _write_table(folder / f"{run.key}_events.tsv", run.events)
    return folder / run.key


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_sidecar(name: str, run: SimulatedRun) -> None:
    _write_json(Path(f"{name}.json"), {"RepetitionTime": run.tr, "TaskName": run.task})
