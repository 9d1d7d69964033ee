"""Small trees in the forms of real releases, each simulated once and then read by many tests."""

from pathlib import Path

from data_tools.simulate.study import Study
from data_tools.simulate.write_study import simulate

# A rest run and two task runs of half a minute each, so short that an onset has just its clip.
STUDY = Study(subjects=3, runs=2, rest_runs=1, frames=32, conditions=2, task="event")
STUDIES = {
    "fmriprep": Study(**vars(STUDY) | {"sites": 2, "diagnosis": "none", "motion": 1.0}),
    "ukbb": Study(**vars(STUDY) | {"subjects": 2}),
}

_trees: dict[str, Path] = {}


def study_of(form: str) -> Study:
    """The study in the tree of a form."""
    return STUDIES.get(form, STUDY)


def simulated_tree(tmp_path_factory, form: str) -> Path:
    """A tree of a form of `data_tools.simulate`; its files are not to be changed."""
    if form not in _trees:
        path = tmp_path_factory.mktemp("simulated") / form
        _trees[form] = simulate(study_of(form), path, kind=form)
    return _trees[form]
