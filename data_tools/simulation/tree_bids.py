"""Trees by the Brain Imaging Data Structure: fsaverage5 as GIFTI or CIFTI, or fMRIPrep's output.

```
gifti      DIR/sub-001/func/sub-001_task-block_run-01_hemi-L_space-fsaverage5_bold.func.gii
cifti      DIR/sub-001/func/sub-001_task-block_run-01_space-fsaverage5_bold.dtseries.nii
both have  ..._bold.json (RepetitionTime), ..._events.tsv, participants.tsv

fmriprep   DIR/participants.tsv, DIR/sub-001/func/sub-001_task-block_run-01_events.tsv
           DIR/derivatives/fmriprep/sub-001/func/sub-001_task-block_run-01_
               space-fsLR_den-91k_bold.dtseries.nii, .json
               desc-confounds_timeseries.tsv
```
The first frame of a run in the form of fMRIPrep is brighter and marked as such, as frames are from
before the magnetisation has settled.
"""

import functools
from pathlib import Path

import numpy as np
from nibabel.cifti2 import BrainModelAxis

from data_tools.simulation.brain import draw_subject
from data_tools.simulation.confounds import SETTLING, confound_table
from data_tools.simulation.cortex import cortex
from data_tools.simulation.fslr import grayordinates, to_grayordinates
from data_tools.simulation.people import draw_person, table_fields
from data_tools.simulation.runs import SimulatedRun, draw_run
from data_tools.simulation.study import Study
from data_tools.simulation.trees import (
    Form,
    cifti_bytes,
    cortex_axis,
    run_units,
    save_gifti,
    write_json,
    write_table,
)

_FMRIPREP = Path("derivatives") / "fmriprep"


def write_gifti(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run as a pair of GIFTI time series, with sidecars and events."""
    run = draw_run(study, draw_subject(study, index), task, number)
    folder = _write_events(directory, run)
    for side, series in enumerate(np.split(run.series, 2, axis=1)):
        name = f"{run.key}_hemi-{'LR'[side]}_space-fsaverage5_bold"
        save_gifti(folder / f"{name}.func.gii", series, side, run.tr)
        _write_sidecar(folder / f"{name}.json", run)


def write_cifti(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run as a CIFTI dense time series of both cortices, with sidecar and events."""
    run = draw_run(study, draw_subject(study, index), task, number)
    folder, name = _write_events(directory, run), f"{run.key}_space-fsaverage5_bold"
    data = cifti_bytes(run.series[:, cortex()], _fsaverage5_axis, run.tr)
    (folder / f"{name}.dtseries.nii").write_bytes(data)
    _write_sidecar(folder / f"{name}.json", run)


def write_fmriprep(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run on fsLR-32k with its confounds, and its events in the raw dataset."""
    run = draw_run(study, draw_subject(study, index), task, number)
    _write_events(directory, run)
    folder = _func(directory / _FMRIPREP, run)
    run.series[0] *= SETTLING
    name = f"{run.key}_space-fsLR_den-91k_bold"
    data = cifti_bytes(to_grayordinates(run.series), grayordinates, run.tr)
    (folder / f"{name}.dtseries.nii").write_bytes(data)
    _write_sidecar(
        folder / f"{name}.json", run, grayordinates="91k", density="91,282 grayordinates"
    )
    rng = study.rng("confounds", run.subject.name, task, number)
    table = confound_table(run, rng)
    write_table(folder / f"{run.key}_desc-confounds_timeseries.tsv", table)


def write_tables(directory: Path, study: Study) -> None:
    """Writes what a BIDS dataset says about itself and its participants."""
    rows = []
    for index in range(study.subjects):
        person = draw_person(study, index)
        rows.append({"participant_id": f"sub-{person.name}"} | table_fields(study, person))
    write_table(directory / "participants.tsv", rows)
    _write_description(directory, "derivative")


def write_fmriprep_tables(directory: Path, study: Study) -> None:
    """Writes the tables of the raw dataset, and the description of the derivatives in it."""
    write_tables(directory, study)
    _write_description(directory, "raw")
    (directory / _FMRIPREP).mkdir(parents=True)
    _write_description(directory / _FMRIPREP, "derivative", "fMRIPrep")


@functools.cache
def _fsaverage5_axis() -> BrainModelAxis:
    """CIFTI leaves the medial wall out."""
    return cortex_axis(np.split(cortex(), 2))


def _write_description(directory: Path, kind: str, *more: str) -> None:
    tools = [{"Name": name} for name in (*more, "data_tools.simulate")]
    value = {"Name": "simulated", "BIDSVersion": "1.10.0", "DatasetType": kind}
    value |= {"GeneratedBy": tools}
    write_json(directory / "dataset_description.json", value)


def _write_events(directory: Path, run: SimulatedRun) -> Path:
    """Makes the folder of a run, writes its events there, and returns it."""
    folder = _func(directory, run)
    if run.events:
        write_table(folder / f"{run.key}_events.tsv", run.events)
    return folder


def _func(directory: Path, run: SimulatedRun) -> Path:
    folder = directory / f"sub-{run.subject.name}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_sidecar(path: Path, run: SimulatedRun, **more: str) -> None:
    write_json(path, {"RepetitionTime": run.tr, "TaskName": run.task} | more)


GIFTI = Form(run_units, write_gifti, write_tables)
CIFTI = Form(run_units, write_cifti, write_tables)
FMRIPREP = Form(run_units, write_fmriprep, write_fmriprep_tables)
