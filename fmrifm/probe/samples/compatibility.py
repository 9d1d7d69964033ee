"""Does a store fit what the model was trained on?

A model says in its `preprocessing` at which TR its clips were, and how the runs of its training
stores became frames. What it does not tell (published weights tell little) is not compared.
"""

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from fmrifm.input.likeness import preprocessing_problem, tr_problem
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import Source, check_grid, mask_problem
from fmrifm.model.files import ModelFiles


def clip_length(files: ModelFiles) -> int:
    """Frames of the clips that a model takes.

    Raises:
      InputError: it takes images.
    """
    if files.options.num_frames is None or files.options.in_chans != 1:
        raise InputError("This is a model of images, not of clips of brain activity: give another.")
    return files.options.num_frames


def check_compatible(files: ModelFiles, sources: list[Source], strict: bool = True) -> list[str]:
    """Compares stores with those that a model was trained on.

    Args:
      strict: whether another TR is refused; otherwise it is a warning, too.

    Returns:
      Warnings, a sentence each: of another preprocessing, and of a store that lacks pixels.

    Raises:
      InputError: a store has another grid or space, or, if `strict`, another TR.
    """
    stores = {source.store.path: source.store for source in sources}
    warnings = []
    for path, store in stores.items():
        # This comes first, since it refuses a store on another grid whatever `strict` is.
        if problem := mask_problem(_cut(files, store), files.geometry, str(path)):
            warnings.append(problem)
        if problem := tr_problem(store, files.preprocessing):
            if strict:
                raise InputError(f"{problem}, or set data.strict=False.")
            warnings.append(f"{problem}.")
        if problem := preprocessing_problem(store, files.preprocessing):
            warnings.append(problem)
    return warnings


def _cut(files: ModelFiles, store: Store) -> Geometry:
    """The geometry of a store in patches of the model, whose grid it must have."""
    model = files.geometry
    try:
        geometry = cut_geometry(store.geometry, model.patch_shape)
    except InputError:  # the sentence of `check_grid` names the store
        geometry = store.geometry
    check_grid(geometry, model, str(store.path), "the model")
    return geometry


def count_seen(files: ModelFiles, subjects: set[str]) -> int | None:
    """How many of "dataset/subject" it was trained on.

    None for published weights, which do not tell whom they have seen.
    """
    if files.sources and not files.subjects_seen:
        return None
    return sum(files.has_seen(subject) for subject in subjects)
