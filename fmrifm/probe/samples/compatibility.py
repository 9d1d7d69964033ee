"""Does a store fit what the model was trained on?

A model says in its `preprocessing` at which TR its clips were, and how the runs of its training
stores became frames. What it does not tell (published weights tell little) is not compared.
"""

from collections.abc import Mapping
from typing import Any

from data_tools.errors import InputError
from data_tools.inspect.facts import as_text, is_number
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import Source, check_grid, mask_problem
from fmrifm.model.files import ModelFiles

TR_TOLERANCE = 0.01
# Fields of a store's preprocessing that change what frames look like, in the order of being told.
_FIELDS = {
    "chain": "chain",
    "zscore": "z-score",
    "confounds": "confounds taken out",
    "highpass": "high-pass",
    "lowpass": "low-pass",
    "kind": "resampling",
    "filter": "filter of the resampling",
}
# These say nothing of a store whose runs keep their TR.
_RESAMPLING = ("kind", "filter")


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
    warnings, tr = [], files.preprocessing.get("tr")
    for path, store in stores.items():
        # This comes first, since it refuses a store on another grid whatever `strict` is.
        if problem := mask_problem(_cut(files, store), files.geometry, str(path)):
            warnings.append(problem)
        if is_number(tr) and not abs(store.tr - tr) <= TR_TOLERANCE * tr:
            problem = (
                f"{path} has a TR of {store.tr:g} s and the model was trained at {tr:g} s: convert "
                f"the runs with --target-tr={tr:g}"
            )
            if strict:
                raise InputError(f"{problem}, or set data.strict=False.")
            warnings.append(f"{problem}.")
        trained = files.preprocessing.get("stores")
        trained = trained if isinstance(trained, list) else []
        found = [_differences(store.preprocessing, x) for x in trained if isinstance(x, Mapping)]
        # Those to the training store that is most like this one.
        if differences := min(found, key=len, default=[]):
            warnings.append(
                f"{path} was preprocessed in another way than the model's training data "
                f"({'; '.join(differences)}): convert the runs as those were, or expect lower "
                "scores."
            )
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


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Such as "chain pixel, not vertex", of the fields that both tell."""
    resampled = here.get("target_tr") and there.get("target_tr")
    return [
        f"{word} {as_text(here[name])}, not {as_text(there[name])}"
        for name, word in _FIELDS.items()
        if name in here and name in there
        if resampled or name not in _RESAMPLING
        if _plain(here[name]) != _plain(there[name])
    ]


def _plain(value: Any) -> Any:
    """A list without its order, which changes nothing of what was taken out."""
    return sorted(map(str, value)) if isinstance(value, list) else value


def count_seen(files: ModelFiles, subjects: set[str]) -> int | None:
    """How many of "dataset/subject" it was trained on.

    None for published weights, which do not tell whom they have seen.
    """
    if files.sources and not files.subjects_seen:
        return None
    return sum(files.has_seen(subject) for subject in subjects)
