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
import itertools
import math
from pathlib import Path

import numpy as np
from nibabel.cifti2 import BrainModelAxis

from data_tools.simulate.brain import cortex
from data_tools.simulate.motion import PARAMETERS
from data_tools.simulate.people import draw_person, table_fields
from data_tools.simulate.runs import SimulatedRun, draw_run, slow_fluctuations
from data_tools.simulate.study import Study
from data_tools.simulate.trees.forms import (
    Form,
    cifti_bytes,
    cortex_axis,
    run_units,
    save_gifti,
    write_json,
    write_table,
)
from data_tools.simulate.trees.fslr import grayordinates, to_grayordinates
from data_tools.spaces.standard_maps import standard_cortex

SETTLING = 1.15  # factor of the first frame, before the magnetisation has settled

_CUTOFF = 128.0  # seconds, the slowest drift that cosines model
_OUTLIER_MM, _OUTLIER_DVARS = 0.5, 1.5  # beyond either a frame is an outlier, as fMRIPrep has it
_N_COMPONENTS = 6


def confound_table(run: SimulatedRun, rng: np.random.Generator) -> list[dict[str, str]]:
    """The rows of `*_desc-confounds_timeseries.tsv`, "n/a" where a frame has no value.

    Args:
      run: the run as it is written, its first frame brightened by SETTLING.
      rng: source of what is made up.
    """
    n_frames = len(run.series)
    cortex = run.series[:, run.series.any(0)].mean(1, dtype=np.float64)
    level = cortex[1:].mean()
    shared = np.concatenate([[0.0], cortex[1:] - level])
    moved = run.motion.displacement - run.motion.displacement.mean()
    noise = slow_fluctuations(rng, 2 + _N_COMPONENTS, n_frames, run.tr).astype(np.float64)
    csf = 1.4 * level + 0.5 * shared + 80 * (noise[:, 0] + 2 * moved)
    white_matter = 0.9 * level + 0.6 * shared + 30 * noise[:, 1]
    csf[0], white_matter[0] = csf[0] * SETTLING, white_matter[0] * SETTLING

    columns = _expand("global_signal", cortex) | _expand("csf", csf)
    columns |= _expand("white_matter", white_matter) | _dvars(run)
    columns["framewise_displacement"] = np.concatenate([[np.nan], run.motion.displacement[1:]])
    mixed = noise[:, 2:] + shared[:, None] / shared.std() * rng.normal(0, 0.5, _N_COMPONENTS)
    components = np.zeros((n_frames, _N_COMPONENTS))  # 0 in frames that are not steady
    components[1:] = np.linalg.qr(mixed[1:] - mixed[1:].mean(0))[0]
    columns |= {f"a_comp_cor_{i:02d}": column for i, column in enumerate(components.T)}
    columns |= {f"cosine{i:02d}": column for i, column in enumerate(_cosines(n_frames, run.tr))}
    for name, column in zip(PARAMETERS, run.motion.parameters.T, strict=True):
        columns |= _expand(name, column)
    columns |= {"non_steady_state_outlier00": np.arange(n_frames) == 0}
    columns |= _outliers(columns)
    texts = {
        name: ["n/a" if np.isnan(x) else f"{x:.8g}" for x in values.astype(np.float64)]
        for name, values in columns.items()
    }
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def _expand(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """A column, its change since the frame before, and the squares of both."""
    change = np.diff(values, prepend=np.nan)
    return {
        name: values,
        f"{name}_derivative1": change,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": change**2,
    }


def _dvars(run: SimulatedRun) -> dict[str, np.ndarray]:
    """Root mean square of the change of the signal over vertices, and relative to the usual."""
    changes = [np.mean((b - a) ** 2) for a, b in itertools.pairwise(run.series)]
    dvars = np.sqrt(np.array([np.nan, *changes]))
    return {"std_dvars": dvars / np.nanmedian(dvars), "dvars": dvars}


def _cosines(n_frames: int, tr: float) -> np.ndarray:
    """(cosines, T) slow drifts of unit norm, a discrete cosine transform without its constant."""
    order = math.floor(2 * n_frames * tr / _CUTOFF)
    places = np.pi * (np.arange(n_frames) + 0.5) / n_frames
    return np.sqrt(2 / n_frames) * np.cos(np.outer(np.arange(1, order + 1), places))


def _outliers(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A column for each frame with much motion or a jump of the signal, 1 there and else 0."""
    frames = (columns["framewise_displacement"] > _OUTLIER_MM) | (
        columns["std_dvars"] > _OUTLIER_DVARS
    )
    return {
        f"motion_outlier{i:02d}": np.arange(len(frames)) == frame
        for i, frame in enumerate(np.flatnonzero(frames))
    }


_FMRIPREP = Path("derivatives") / "fmriprep"


def write_gifti(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run as a pair of GIFTI time series, with sidecars and events."""
    run = draw_run(study, index, task, number)
    folder = _write_events(directory, run)
    for side, series in enumerate(np.split(run.series, 2, axis=1)):
        name = f"{run.key}_hemi-{'LR'[side]}_space-fsaverage5_bold"
        save_gifti(folder / f"{name}.func.gii", series, side, run.tr)
        _write_sidecar(folder / f"{name}.json", run)


def write_cifti(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run as a CIFTI dense time series of both cortices, with sidecar and events."""
    run = draw_run(study, index, task, number)
    folder, name = _write_events(directory, run), f"{run.key}_space-fsaverage5_bold"
    data = cifti_bytes(run.series[:, cortex()], _fsaverage5_axis, run.tr)
    (folder / f"{name}.dtseries.nii").write_bytes(data)
    _write_sidecar(folder / f"{name}.json", run)


def write_fmriprep(directory: Path, study: Study, index: int, task: str, number: int) -> None:
    """Writes a run on fsLR-32k with its confounds, and its events in the raw dataset."""
    run = draw_run(study, index, task, number)
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
    components = {name: {"Mask": "combined"} for name in table[0] if name.startswith("a_comp_cor")}
    write_json(folder / f"{run.key}_desc-confounds_timeseries.json", components)


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
    return cortex_axis(standard_cortex("fsaverage5"))


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
