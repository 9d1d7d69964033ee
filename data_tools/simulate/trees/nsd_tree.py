"""Trees in the form of the Natural Scenes Dataset, brought to fsLR-32k.

```
DIR/subj01/32k_fs_LR/timeseries/timeseries_session01_run01.lh.func.gii, .rh.func.gii
DIR/subj01/func1mm/design/design_session01_run01.tsv    an image a frame, where one appears; else 0
```
A session has two runs. Images are 73,000, numbered from 1; that of number n shows condition
(n - 1) modulo the number of conditions of the study. A tenth of the trials shows the 1,000 images
that all subjects see, the others come from 9,000 of a subject's own. Rest runs have designs of 0.
"""

from pathlib import Path

import numpy as np

from data_tools.simulate.runs import SimulatedRun, draw_run
from data_tools.simulate.study import Study
from data_tools.simulate.trees.forms import Form, run_units, save_gifti
from data_tools.spaces.standard_maps import nearest_fsaverage5, standard_cortex

TR = 1.0
N_IMAGES = 73_000

_RUNS_A_SESSION = 2
_N_SHARED, _N_OWN = 1_000, 9_000
_SHARED_TRIALS = 0.1  # share of the trials


def subject_name(index: int) -> str:
    return f"subj{index + 1:02d}"


def units(study: Study) -> list[tuple[int, str, int, str]]:
    """Index of the subject, task, number and place in the sessions of every run."""
    places = {
        name: f"session{i // _RUNS_A_SESSION + 1:02d}_run{i % _RUNS_A_SESSION + 1:02d}"
        for i, name in enumerate(study.run_names)
    }
    return [(*unit, places[unit[1:]]) for unit in run_units(study)]


def write_unit(
    directory: Path, study: Study, index: int, task: str, number: int, place: str
) -> None:
    """Writes a run as a pair of GIFTI time series, and which images it showed."""
    run = draw_run(study, index, task, number, tr=TR, onset_step=TR)
    root = directory / subject_name(index)
    folder = root / "32k_fs_LR" / "timeseries"
    folder.mkdir(parents=True, exist_ok=True)
    halves = zip(np.split(nearest_fsaverage5(), 2), standard_cortex("fsLR-32k"), strict=True)
    for side, (source, cortex) in enumerate(halves):
        series = run.series[:, source]
        series[:, ~cortex] = 0
        save_gifti(folder / f"timeseries_{place}.{'lr'[side]}h.func.gii", series, side)
    folder = root / "func1mm" / "design"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{image}\n" for image in design_column(study, index, run))
    (folder / f"design_{place}.tsv").write_text(text)


def design_column(study: Study, index: int, run: SimulatedRun) -> np.ndarray:
    """(T,) int: the number, from 1, of the image that appears in a frame, 0 where none does."""
    rng = study.rng("images", index, run.number)
    column = np.zeros(len(run.series), int)
    own = _N_SHARED + _N_OWN * (index % ((N_IMAGES - _N_SHARED) // _N_OWN))
    for event in run.events:
        shared = rng.random() < _SHARED_TRIALS
        first, size = (0, _N_SHARED) if shared else (own, _N_OWN)
        condition = study.condition_names.index(event["trial_type"])
        candidates = range(first + (condition - first) % study.conditions, first + size)
        images = candidates[:: study.conditions]
        column[round(event["onset"] / TR)] = 1 + images[int(rng.integers(len(images)))]
    return column


NSD = Form(units, write_unit, subject_name=subject_name, own_trs=True)
