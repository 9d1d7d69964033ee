"""Writes simulated studies: as stores, or as the trees of raw runs that converters read.

```
--format=store     DIR/train, DIR/val, DIR/test      stores, split by subject
--format=FORM      a tree in the form of FORM: see the modules of `trees`
all have           truth.npz, truth.json             what a perfect analysis would find
```
The directory appears whole or not at all. Work is spread over processes run by run, and memory does
not grow with the number of subjects.
"""

import contextlib
import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files.atomic import publish_directory
from data_tools.parallel import in_parallel
from data_tools.readers.surface_run import SurfaceRun
from data_tools.simulate.people import table_fields
from data_tools.simulate.runs import draw_run
from data_tools.simulate.study import Study
from data_tools.simulate.trees.bids_tree import CIFTI, FMRIPREP, GIFTI
from data_tools.simulate.trees.forms import Form, run_units
from data_tools.simulate.trees.hcp_tree import HCP
from data_tools.simulate.trees.nsd_tree import NSD
from data_tools.simulate.trees.ukbb_tree import UKBB
from data_tools.simulate.truth import write_truth
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.store.json_text import parse_json
from data_tools.store.writer import StoreWriter
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.recipe import Recipe

FORMS = {
    "cifti": CIFTI, "gifti": GIFTI, "fmriprep": FMRIPREP, "hcp": HCP, "nsd": NSD, "ukbb": UKBB
}  # fmt: skip
FORMATS = ("store", *FORMS)
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
      kind: one of FORMATS.
      shares: of the subjects that go to the train, val and test stores.
      jobs: number of processes, -1 for one a core; the files do not depend on it.
      overwrite: replace an earlier simulation at `output`.

    Returns:
      The directory.

    Raises:
      InputError: something else is at `output`, there are too few subjects to split, or the tree
        has no place for what the study has.
    """
    output = Path(output)
    if jobs == 0:
        raise InputError("--jobs=0 leaves nobody to do the work: give 1 or more, or -1 for all.")
    if not overwrite and _is_made(output, study, kind, shares):
        print(f"{output} is there already, made with the same flags.")
        return output
    _check_output(output, overwrite)
    if kind == "store":
        split = split_subjects(study.subjects, shares)
        with publish_directory(output) as directory:
            _write_stores(directory, study, split, jobs)
            write_truth(directory, study, kind, split=_split_names(split))
        return output
    form = FORMS[kind]
    _check_form(study, form, kind)
    with publish_directory(output) as directory:
        if form.write_tables:
            form.write_tables(directory, study)
        write = functools.partial(form.write_unit, directory, study)
        calls = [functools.partial(write, *unit) for unit in form.units(study)]
        for _ in in_parallel(calls, jobs, "simulate", form.unit):
            pass
        name = form.subject_name
        names = [name(index) for index in range(study.subjects)] if name else None
        write_truth(directory, study, kind, names=names)
    return output


def split_subjects(n_subjects: int, shares: tuple[float, float, float]) -> dict[str, range]:
    """Indices of the subjects of each split: at least one each, the rest by their shares."""
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


def _write_stores(directory: Path, study: Study, split: dict[str, range], jobs: int) -> None:
    with contextlib.ExitStack() as stack:
        open_store = functools.partial(
            StoreWriter,
            geometry=standard_flat_map("fsaverage5").geometry,
            tr=RECIPE.target_tr,
            preprocessing=RECIPE.describe(),
            provenance={"tool": "data_tools.simulate", "study": dataclasses.asdict(study)},
        )
        writers = {name: stack.enter_context(open_store(directory / name)) for name in split}
        writer_of = {index: writers[name] for name, indices in split.items() for index in indices}
        calls = [
            functools.partial(write_to_store, writer_of[unit[0]], study, *unit)
            for unit in run_units(study)
        ]
        for _ in in_parallel(calls, jobs, "simulate", "run"):
            pass
        for writer in writers.values():
            writer.finish()


def write_to_store(writer: StoreWriter, study: Study, index: int, task: str, number: int) -> None:
    """Takes a run through the preprocessing of real runs and adds it to a store."""
    run = draw_run(study, index, task, number)
    surface_run = SurfaceRun(*np.split(run.series, 2, axis=1), run.tr)
    frames = process_run(surface_run, standard_flat_map("fsaverage5"), RECIPE, run.key)
    qc = frames.qc
    if study.tracks_motion:
        # The mean framewise displacement in mm; the first frame has no frame before it.
        qc = qc | {"fd_mean": round(float(run.motion.displacement[1:].mean()), 4)}
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
        qc=qc,
        **table_fields(study, run.subject),
    )


def _check_form(study: Study, form: Form, kind: str) -> None:
    """Refuses what releases with acquisitions and tables of their own cannot say."""
    if not form.own_trs:
        return
    if study.sites > 1 or study.diagnosis != "off":
        raise InputError(
            f"--format={kind} has no tables for --sites and --diagnosis: leave them out, or choose "
            "the format store, cifti, gifti or fmriprep."
        )
    if study.tr != 1:
        raise InputError(f"--format={kind} has TRs of its own: leave --tr out.")


def _split_names(split: dict[str, range]) -> list[str]:
    """The split of each subject, in their order."""
    return [name for name, indices in split.items() for _ in indices]


def _is_made(output: Path, study: Study, kind: str, shares: tuple[float, float, float]) -> bool:
    """Whether `output` is what these flags make, as where a job was killed when all was done."""
    path = output / "truth.json"
    if not path.is_file():
        return False
    truth = parse_json(path.read_bytes(), path, "delete it or choose another --output")
    if truth.get("kind") != kind or truth.get("study") != dataclasses.asdict(study):
        return False
    if kind != "store":
        return True
    split = np.load(output / "truth.npz", allow_pickle=False)["split"].tolist()
    return split == _split_names(split_subjects(study.subjects, shares))


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuses to replace anything but an earlier simulation, and that only when told to."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / "truth.json").is_file():
        raise InputError(f"{output} holds something else: choose another --output.")
    if not overwrite:
        raise InputError(f"{output} exists: choose another --output, or add --overwrite.")
