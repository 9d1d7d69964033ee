"""Folders of Arrow files: which splits there are, and the files of each in their order.

```
FOLDER/dataset_dict.json    {"splits": ["train", ...]}     where the library datasets saved it
FOLDER/train/data-00000-of-00002.arrow ...  state.json     its order
```
Without these files a split is a directory that holds `*.arrow`, in the order of their names.
"""

import json
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.remote import base_name, is_url, list_directory, open_binary


def find_splits(folder: str, wanted: list[str] | None = None) -> dict[str, list[str]]:
    """The files of each split of a folder.

    Args:
      folder: path or URL.
      wanted: splits to take, None or none for all.

    Returns:
      {name: places}; the name is "" where the folder itself is the only split.

    Raises:
      InputError: there is no split, or one is wanted that is not there, or a file is missing.
    """
    folder = folder.rstrip("/")
    own = _files(folder)
    if own:
        splits = {"": own}
    else:
        saved = _read_json(folder, "dataset_dict.json")
        names = saved.get("splits") or [base_name(place) for place in list_directory(folder, "*")]
        found = {str(name): _files(f"{folder}/{name}") for name in names}
        empty = [name for name, files in found.items() if not files]
        if saved and empty:
            raise InputError(f"{folder} lacks the files of its split '{empty[0]}': get them again.")
        splits = {name: files for name, files in sorted(found.items()) if files}
    if not splits:
        raise InputError(f"{folder} holds no Arrow file and no folder of them: check the path.")
    if not wanted:
        return splits
    if own:
        raise InputError(f"{folder} has no splits, it is one itself: leave out --splits.")
    if missing := [name for name in wanted if name not in splits]:
        raise InputError(f"{folder} has no split '{missing[0]}': choose of {', '.join(splits)}.")
    return {name: splits[name] for name in wanted}


def _files(folder: str) -> list[str]:
    """The files of one split, in order; none where it is none."""
    found = {
        base_name(place): place
        for place in list_directory(folder, "*.arrow")
        # Folders of datasets are named so too.
        if is_url(place) or not Path(place).is_dir()
    }
    state = _read_json(folder, "state.json")
    if not state:
        return list(found.values())
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(
            f"{folder} is a selection of rows of other files: save it with a newer version of the "
            "library datasets, which writes the rows themselves."
        )
    try:
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise InputError(f"{folder}/state.json lists no files: save the dataset again.") from None
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{folder}/{missing[0]} is missing: copy the folder again.")
    return [found[name] for name in names]


def _read_json(folder: str, name: str) -> dict[str, Any]:
    """A JSON object beside the files; an empty one where there is none."""
    if not list_directory(folder, name):
        return {}
    with open_binary(f"{folder}/{name}") as file:
        data = file.read()
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{folder}/{name} is damaged: copy it again.")
    return value
