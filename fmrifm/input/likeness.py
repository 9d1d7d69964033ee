"""In what runs are unlike those that a model was trained on: TR, preprocessing, normalisation.

A model says in its `preprocessing` at which TR its clips were, how they are normalised, and how the
runs of its training stores became frames. What it does not tell (published weights tell little) is
not compared.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from data_tools.inspect.facts import as_text, is_number
from data_tools.store.reader import Store

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
_SETTINGS = ("normalize", "no_coord_normalize")  # of config.data


def tr_problem(store: Store, trained: Mapping[str, Any], whose: str = "the model") -> str | None:
    """A sentence without its full stop, if a store has another TR than the training data."""
    tr = trained.get("tr")
    if not is_number(tr) or abs(store.tr - tr) <= TR_TOLERANCE * tr:
        return None
    return (
        f"{store.path} has a TR of {store.tr:g} s and {whose} was trained at {tr:g} s: convert the "
        f"runs with --target-tr={tr:g}"
    )


def preprocessing_problem(
    store: Store, trained: Mapping[str, Any], whose: str = "the model"
) -> str | None:
    """A sentence, if a store was preprocessed unlike every training store."""
    told = trained.get("stores")
    told = told if isinstance(told, list) else []
    found = [_differences(store.preprocessing, x) for x in told if isinstance(x, Mapping)]
    # Those to the training store that is most like this one.
    if differences := min(found, key=len, default=[]):
        return (
            f"{store.path} was preprocessed in another way than the training data of {whose} "
            f"({'; '.join(differences)}): convert the runs as those were, or expect lower scores."
        )
    return None


def find_unlike(stores: Iterable[Store], trained: Mapping[str, Any], whose: str) -> Iterator[str]:
    """Yields a sentence for each problem of each store."""
    for store in {store.path: store for store in stores}.values():
        if problem := tr_problem(store, trained, whose):
            yield f"{problem}."
        if problem := preprocessing_problem(store, trained, whose):
            yield problem


def find_other_settings(
    here: Mapping[str, Any], trained: Mapping[str, Any], whose: str
) -> Iterator[str]:
    """Yields a sentence for each setting of the data by which clips become other numbers."""
    for name in _SETTINGS:
        if name in trained and trained[name] != here[name]:
            yield (
                f"data.{name} is {here[name]} and {whose} was trained with {trained[name]}: set "
                f"data.{name}={trained[name]}, or expect it to learn anew."
            )


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
