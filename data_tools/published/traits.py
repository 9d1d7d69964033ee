"""The published traits of people: which label of which folder, and the file that keeps it.

`configs/splits/traits.json` has them by name; folders are those of Brainmarks, split already, and
label maps lie in `targets` beside a folder, or beside it.
"""

import dataclasses
import json
from pathlib import Path

from data_tools.errors import InputError
from data_tools.published.splits import TRAITS
from data_tools.remote import base_name, is_url


@dataclasses.dataclass(frozen=True)
class Trait:
    """A trait and how its published results were made.

    Attributes:
      about: what it is.
      target: what a probe reads, in the language of its config.
      label: the column that is the label.
      join: the label's file, as in `arrow_rows.read_join`; None where the folder has the column.
      target_tr, kind: how runs are resampled.
      splits: the splits of the folder.
    """

    about: str
    target: str
    label: str
    join: str | None
    target_tr: float
    kind: str
    splits: tuple[str, ...]


def read_trait(name: str, folder: str) -> Trait:
    """A published trait by name, for a folder.

    Args:
      name: such as "abide_dx".
      folder: that is imported; its name must be that of the dataset.

    Raises:
      InputError: there is no such trait, the folder is of another dataset, or the map is not there.
    """
    table = json.loads(TRAITS.read_text())
    if name not in table["traits"]:
        raise InputError(
            f"{name} is no published trait: choose one of {', '.join(table['traits'])}."
        )
    trait = table["traits"][name]
    dataset = trait["folder"].split(".")[0]
    if base_name(folder).split(".")[0] != dataset:
        raise InputError(f"The trait {name} is of folders named {trait['folder']}, not {folder}.")
    join = trait.get("join")
    return Trait(
        about=trait["about"],
        target=trait["target"],
        label=trait["label"],
        join=join and _with_path(join, folder),
        target_tr=table["resample"]["target_tr"],
        kind=table["resample"]["kind"],
        splits=tuple(table["splits"]),
    )


def _with_path(join: str, folder: str) -> str:
    """A join whose file is where it lies."""
    label, _, rest = join.partition("=")
    file = rest.split("@")[0]
    beside = Path(".") if is_url(folder) else Path(folder).absolute().parent
    for place in (beside / "targets", beside):
        if (place / file).is_file():
            return f"{label}={place / rest}"
    raise InputError(f"The labels {file} are not in {beside} or {beside}/targets: put them there.")
