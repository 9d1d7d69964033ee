"""Trees in the form of UK Biobank, field 32136: a zip for each subject and imaging visit.

```
DIR/1000107_32136_2_0.zip    surf_fMRI/CIFTIs/bb.rfMRI.MNI.MSMAll.dtseries.nii
                             surf_fMRI/CIFTIs/bb.tfMRI.MNI.MSMAll.dtseries.nii
```
The n-th rest run and the n-th task run of a subject make visit n (instances 2, 3, ...); where a
study has more of one, some visits lack the other. As in the release there are no events. In every
second zip vertices are missing, that is 0 throughout: in turn less than 1 % of the cortex and more.
"""

import zipfile
from pathlib import Path

import numpy as np

from data_tools.simulate.brain import cortex, mid_surface
from data_tools.simulate.runs import draw_run
from data_tools.simulate.study import Study
from data_tools.simulate.trees.forms import Form, cifti_bytes
from data_tools.simulate.trees.fslr import grayordinates, to_grayordinates

TR = 0.735

_MEMBER = "surf_fMRI/CIFTIs/bb.{}.MNI.MSMAll.dtseries.nii"
_FIRST_INSTANCE = 2
# Radius in mm of the part of the cortex that a zip lacks, in turn.
_MISSING = (0.0, 11.0, 0.0, 25.0)


def subject_name(index: int) -> str:
    return str(1_000_107 + 1_013 * index)


def units(study: Study) -> list[tuple[int, int]]:
    """Index of the subject and number of the visit, from 1."""
    visits = range(1, max(study.runs, study.rest_runs) + 1)
    return [(index, visit) for index in range(study.subjects) for visit in visits]


def write_unit(directory: Path, study: Study, index: int, visit: int) -> None:
    """Writes the zip of a visit."""
    instance = visit - 1 + _FIRST_INSTANCE
    lost = missing_vertices(study, index, visit)
    path = directory / f"{subject_name(index)}_32136_{instance}_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for kind, task in (("rfMRI", "rest"), ("tfMRI", study.task)):
            if (task, visit) not in study.run_names:
                continue
            run = draw_run(study, index, task, visit, tr=TR)
            run.series[:, lost] = 0
            data = cifti_bytes(to_grayordinates(run.series), grayordinates, TR)
            # A name alone has a fixed date, so that the same flags give the same bytes. Level 0
            # makes a deflated file, as in the release, without the seconds that compressing takes.
            member = zipfile.ZipInfo(_MEMBER.format(kind))
            archive.writestr(member, data, zipfile.ZIP_DEFLATED, compresslevel=0)


def missing_vertices(study: Study, index: int, visit: int) -> np.ndarray:
    """(20484,) bool: the vertices of fsaverage5 without data, those around a random place."""
    n_visits = max(study.runs, study.rest_runs)
    radius = _MISSING[(index * n_visits + visit - 1) % len(_MISSING)]
    points = mid_surface()
    place = study.rng("missing", index, visit).choice(np.flatnonzero(cortex()))
    return np.linalg.norm(points - points[place], axis=1) < radius


UKBB = Form(units, write_unit, subject_name=subject_name, own_trs=True, unit="zip")
