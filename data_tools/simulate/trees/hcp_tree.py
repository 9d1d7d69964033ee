"""Trees in the form of the Human Connectome Project, young adults (3T, and 7T for some).

```
DIR/100206/MNINonLinear/Results/tfMRI_WM_LR/tfMRI_WM_LR_Atlas_MSMAll.dtseries.nii
DIR/100206/MNINonLinear/Results/tfMRI_WM_LR/EVs/faces.txt, ..., Sync.txt
DIR/restricted.csv     Subject, Age_in_Yrs, ZygosityGT, Pedigree_ID, Family_ID
```
Rest runs are `rfMRI_REST1_LR`, `_RL`, `rfMRI_REST2_LR`, ... and task runs `tfMRI_WM_LR`,
`tfMRI_MOTOR_RL`, `tfMRI_LANGUAGE_LR`, ..., all with the conditions of the study. Every third
subject was at 7T too, and the first of them has the merged retinotopy run that no one should use.
"""

from pathlib import Path

from data_tools.simulate.people import draw_person
from data_tools.simulate.runs import draw_run
from data_tools.simulate.study import Study
from data_tools.simulate.trees.forms import Form, cifti_bytes, write_table
from data_tools.simulate.trees.fslr import grayordinates, to_grayordinates

TR_3T, TR_7T = 0.72, 1.0
MERGED_RETINOTOPY = "tfMRI_7T_RETCCW_AP_RETCW_PA_RETEXP_AP_RETCON_PA_RETBAR1_AP_RETBAR2_PA"

_TASKS = ("WM", "MOTOR", "LANGUAGE", "EMOTION", "SOCIAL", "RELATIONAL", "GAMBLING")
_ACQUISITIONS_7T = ("rfMRI_REST1_7T_PA", "tfMRI_MOVIE1_7T_AP")
_SYNC = "8.001\n"  # seconds from the trigger to the first trial: no event of a condition


def subject_name(index: int) -> str:
    """Six digits; as strings the names are in the order of the subjects."""
    return str(100_206 + 101 * index)


def acquisition(task: str, number: int) -> str:
    """What the release calls a 3T run of a study."""
    if task == "rest":
        return f"rfMRI_REST{(number + 1) // 2}_{('LR', 'RL')[(number + 1) % 2]}"
    # The number of tasks is odd: the second time round each comes in the other direction.
    place = number - 1
    return f"tfMRI_{_TASKS[place % len(_TASKS)]}_{('LR', 'RL')[place % 2]}"


def units(study: Study) -> list[tuple[int, str, str, int, float]]:
    """Index of the subject, acquisition, task, number and TR of every run."""
    found = []
    for index in range(study.subjects):
        found += [(index, acquisition(*run), *run, TR_3T) for run in study.run_names]
        if index % 3 == 0:
            extra = (*_ACQUISITIONS_7T, *((MERGED_RETINOTOPY,) if index == 0 else ()))
            # Films and retinotopy are no conditions of ours: brains do there what they do at rest.
            found += [
                (index, name, "rest", study.rest_runs + number, TR_7T)
                for number, name in enumerate(extra, 1)
            ]
    return found


def write_unit(
    directory: Path, study: Study, index: int, name: str, task: str, number: int, tr: float
) -> None:
    """Writes a run as CIFTI, and the explanatory variables of a task."""
    run = draw_run(study, index, task, number, tr=tr)
    folder = directory / subject_name(index) / "MNINonLinear" / "Results" / name
    folder.mkdir(parents=True)
    data = cifti_bytes(to_grayordinates(run.series), grayordinates, tr)
    (folder / f"{name}_Atlas_MSMAll.dtseries.nii").write_bytes(data)
    if not run.events:
        return
    (folder / "EVs").mkdir()
    (folder / "EVs" / "Sync.txt").write_text(_SYNC)
    for condition in study.condition_names:
        lines = [
            f"{event['onset']:g}\t{event['duration']:g}\t1\n"
            for event in run.events
            if event["trial_type"] == condition
        ]
        (folder / "EVs" / f"{condition}.txt").write_text("".join(lines))


def write_tables(directory: Path, study: Study) -> None:
    """Writes the restricted table: families of one to four, some of them twins."""
    rows = []
    for index, (first, size) in enumerate(_families(study)):
        twins = size > 1 and index - first < 2
        mother = 50_000 + 7 * first
        # The fourth child has another father: the same pedigree, and not the same family.
        father = 80_000 + 7 * first + (index - first == 3)
        rows.append(
            {
                "Subject": subject_name(index),
                "Age_in_Yrs": draw_person(study, index).age,
                "ZygosityGT": (("MZ", "DZ")[first % 2]) if twins else " ",
                "Pedigree_ID": mother,
                "Family_ID": f"{mother}_{father}",
            }
        )
    write_table(directory / "restricted.csv", rows, delimiter=",")


def _families(study: Study) -> list[tuple[int, int]]:
    """For each subject the first of its family, and how many they are."""
    rng, families = study.rng("families"), []
    while len(families) < study.subjects:
        size = int(rng.integers(1, 5))
        families += [(len(families), size)] * size
    return families[: study.subjects]


HCP = Form(units, write_unit, write_tables, subject_name, own_trs=True)
