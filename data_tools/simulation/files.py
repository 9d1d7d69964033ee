"""Writes simulated studies: as stores, or as the CIFTI or GIFTI trees that converters read.

```
--format=store     DIR/train, DIR/val, DIR/test      stores, split by subject
--format=gifti     DIR/sub-001/func/sub-001_task-block_run-01_hemi-L_space-fsaverage5_bold.func.gii
--format=cifti     DIR/sub-001/func/sub-001_task-block_run-01_space-fsaverage5_bold.dtseries.nii
trees also have    ..._bold.json (RepetitionTime), ..._events.tsv, participants.tsv
all have           truth.npz, truth.json             what a perfect analysis would find
```
The directory appears whole or not at all.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import tqdm

from data_tools.chain import Recipe, process_run
from data_tools.errors import InputError
from data_tools.files import publish_directory
from data_tools.flatmap import fsaverage5_flat_map
from data_tools.simulation.brain import draw_subject
from data_tools.simulation.runs import SimulatedRun, draw_run
from data_tools.simulation.study import Study
from data_tools.simulation.trees import write_cifti, write_gifti, write_tree_tables
from data_tools.simulation.truth import write_truth
from data_tools.store_writer import StoreWriter
from data_tools.surfaces import SurfaceRun

FORMATS = ("store", "cifti", "gifti")
SPLITS = ("train", "val", "test")
RECIPE = Recipe()  # of real runs, unless their users ask for another


def simulate(
    study: Study,
    output: str | os.PathLike,
    *,
    kind: str = "store",
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    jobs: int = 1,
    overwrite: bool = False,
) -> Path:
    """Simulates a study and writes it.

    Args:
      study: what to simulate.
      output: the directory to make.
      kind: "store", "cifti" or "gifti".
      shares: of the subjects that go to the train, val and test stores.
      jobs: number of processes, -1 for one a core; the files do not depend on it.
      overwrite: replace an earlier simulation at `output`.

    Returns:
      The directory.

    Raises:
      InputError: something else is at `output`, or there are too few subjects to split.
    """
    output = Path(output)
    if jobs == 0:
        raise InputError("--jobs=0 leaves nobody to do the work: give 1 or more, or -1 for all.")
    _check_output(output, overwrite)
    split = split_subjects(study.subjects, shares) if kind == "store" else {}
    with publish_directory(output) as directory, contextlib.ExitStack() as stack:
        if kind == "store":
            writers = {
                name: stack.enter_context(_open_store(directory / name, study)) for name in split
            }
            sinks = [
                functools.partial(write_to_store, writers[name])
                for name, indices in split.items()
                for _ in indices
            ]
            _write_runs(study, sinks, jobs)
            for writer in writers.values():
                writer.finish()
        else:
            write_run = {"gifti": write_gifti, "cifti": write_cifti}[kind]
            write_tree_tables(study, directory)
            _write_runs(study, [functools.partial(write_run, directory)] * study.subjects, jobs)
        write_truth(study, directory, split, kind)
    return output


def split_subjects(n_subjects: int, shares: tuple[float, float, float]) -> dict[str, range]:
    """Indices of the subjects of each split: at least one each, the rest by their shares.

    Raises:
      InputError: fewer subjects than splits, or senseless shares.
    """
    if len(shares) != 3 or min(shares) < 0 or not 0 < sum(shares) < np.inf:
        raise InputError("--splits needs three shares that are not negative, such as 0.6,0.2,0.2.")
    if n_subjects < len(SPLITS):
        raise InputError(
            f"{n_subjects} subjects cannot be split into {', '.join(SPLITS)}: "
            "give --subjects=3 or more."
        )
    n_val, n_test = (max(1, round(n_subjects * share / sum(shares))) for share in shares[1:])
    n_val = min(n_val, n_subjects - 2)
    n_train = max(1, n_subjects - n_val - n_test)
    return {
        "train": range(n_train),
        "val": range(n_train, n_train + n_val),
        "test": range(n_train + n_val, n_subjects),
    }


def write_to_store(writer: StoreWriter, run: SimulatedRun) -> None:
    """Takes a run through the preprocessing of real runs and adds it to a store."""
    surface_run = SurfaceRun(*np.split(run.series, 2, axis=1), run.tr)
    frames = process_run(surface_run, fsaverage5_flat_map(), RECIPE, run.key)
    writer.add(
        run.key,
        frames.frames,
        missing=frames.missing,
        dataset="simulated",
        subject=run.subject.name,
        task=run.task,
        run=f"{run.number:02d}",
        tr=frames.tr,
        source_tr=frames.source_tr,
        events=run.events,
        age=run.subject.age,
        sex=run.subject.sex,
        qc=frames.qc,
    )


def _open_store(path: Path, study: Study) -> StoreWriter:
    return StoreWriter(
        path,
        fsaverage5_flat_map().geometry,
        tr=RECIPE.target_tr,
        preprocessing=RECIPE.describe(),
        provenance={"tool": "data_tools.simulate", "study": dataclasses.asdict(study)},
    )


def _write_runs(study: Study, sinks: list[Callable[[SimulatedRun], None]], jobs: int) -> None:
    """Simulates every run and gives it to the sink of its subject, in parallel over runs."""
    work = [(index, *name) for index in range(study.subjects) for name in study.run_names]
    calls = (joblib.delayed(_write_run)(study, *run, sinks[run[0]]) for run in work)
    n_jobs = min(joblib.effective_n_jobs(jobs), len(work))
    done = joblib.Parallel(n_jobs, return_as="generator_unordered")(calls)
    with contextlib.closing(done):
        for _ in tqdm.tqdm(done, "simulate", len(work), unit="run"):
            pass


def _write_run(
    study: Study, index: int, task: str, number: int, sink: Callable[[SimulatedRun], None]
) -> None:
    sink(draw_run(study, draw_subject(study, index), task, number))


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuses to replace anything but an earlier simulation, and that only when told to."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "truth.json").is_file():
        raise InputError(f"{output} holds something else: choose another --output.")
    if not overwrite:
        raise InputError(f"{output} exists: choose another --output, or add --overwrite.")
