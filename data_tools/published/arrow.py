"""Arrow files of published runs: a row a run, or a clip of one.

Columns are `bold` (T, C), `mean` and `std` (1, C), lists of lists however the library `datasets`
calls them, and plain values, of which `tr` must be one. Files are of Arrow's stream or file format,
mapped where they lie, and read batch by batch. Letters in array names: T frames, C columns.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError, as_input_errors, check_file, check_file_name, unknown
from data_tools.files.remote import base_name, is_url, list_directory, open_binary
from data_tools.store.json_text import parse_json

ARRAYS = ("bold", "mean", "std")
_FILE_FORMAT = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"

Row = dict[str, Any]


def read_values(place: str, name: str) -> Iterator[Row]:
    """Yields the plain values of each row of a file, without its arrays; classes by their names.

    The file is a path or URL; messages call it by `name`.
    """
    for batch in _batches(place, name):
        yield from _plain_values(batch)


def read_rows(place: str, name: str) -> Iterator[tuple[Row, dict[str, np.ndarray]]]:
    """Yields plain values and arrays of each row of a file, as `read_values` does.

    Arrays are views of the file: copy what shall stay.
    """
    for batch in _batches(place, name):
        columns = {array: batch.column(array) for array in ARRAYS if array in batch.schema.names}
        for i, values in enumerate(_plain_values(batch)):
            yield (
                values,
                {
                    array: _matrix(column, i, f"The {array} of row {i} of {name}")
                    for array, column in columns.items()
                    if column[i].is_valid
                },
            )


def read_sizes(place: str, name: str) -> Iterator[tuple[Row, tuple[int, int]]]:
    """Yields plain values and (T, C) of each row of a file, as `read_values` does."""
    for batch in _batches(place, name):
        for i, values in enumerate(_plain_values(batch)):
            yield values, _matrix(batch.column("bold"), i, f"Row {i} of {name}").shape


def _batches(place: str, name: str) -> Iterator[Any]:
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"Reading {name} needs pyarrow: pip install 'fmrifm[arrow]'.") from None
    if not is_url(place):
        with as_input_errors(), open(check_file(place), "rb"):
            pass  # Python's errors name the file, Arrow's do not
    with open_binary(place) if is_url(place) else pyarrow.memory_map(place) as source:
        try:
            is_file, size = source.read(len(_FILE_FORMAT)) == _FILE_FORMAT, source.seek(0, 2)
            # A file is a stream between its mark, padded to 8 bytes, and a footer.
            source.seek(8 if is_file else 0)
            end = None
            while end != size:
                reader = pyarrow.ipc.open_stream(source)
                _check_schema(reader.schema, name)
                for batch in reader:
                    _check_batch(batch, name)
                    yield batch
                # Arrow takes a stream that was cut between two batches for whole.
                end = source.seek(source.tell() - len(_STREAM_END)) + len(_STREAM_END)
                if source.read(len(_STREAM_END)) != _STREAM_END:
                    raise InputError(
                        f"{name} is truncated, it ends without Arrow's mark: get it again."
                    )
                if is_file:
                    _check_footer(source, end, size, name)
                    return
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, SystemError) as error:
            # Arrow says that a file is cut by an OSError, but one without a number.
            if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
                raise
            reason = " ".join(str(error).split()).rstrip(".").replace(". ", "; ")
            raise InputError(
                f"{name} is no Arrow file, or is damaged or truncated ({reason}): get it again."
            ) from error


def _check_batch(batch: Any, name: str) -> None:
    """Refuses a batch whose offsets lead out of it: Arrow follows them, which ends the process."""
    import pyarrow

    try:
        batch.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        column = re.match(r"In column (\d+): .*UTF8", str(error))
        if column is None:
            raise
        raise InputError(
            f"The column '{batch.schema.names[int(column[1])]}' of {name} is not UTF-8: save it as "
            "UTF-8."
        ) from error


def _check_footer(source: Any, end: int, size: int, name: str) -> None:
    """Refuses a file with anything but its footer after its stream, such as one joined by `cat`."""
    source.seek(size - 10)
    length, mark = int.from_bytes(source.read(4), "little"), source.read(6)
    if mark != _FILE_FORMAT or end + length + 10 != size:
        raise InputError(
            f"{name} is truncated, or something follows its end, such as another file: get it "
            "again, or give the files one by one."
        )


def _check_schema(schema: Any, name: str) -> None:
    """Refuses a file that is not of runs."""
    import pyarrow

    found = ", ".join(schema.names)
    for column in ("bold", "tr"):
        if column not in schema.names:
            raise InputError(
                f"{name} has no column '{column}', only {found}: give the files of a dataset of "
                "runs."
            )
    kind = schema.field("tr").type
    if not (pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)):
        raise InputError(f"The column 'tr' of {name} is {kind}, not seconds: mend it.")
    for column in ARRAYS:
        if column not in schema.names:
            continue
        depth, kind = 0, _storage(schema.field(column).type)
        while pyarrow.types.is_nested(kind) and hasattr(kind, "value_type"):
            depth, kind = depth + 1, kind.value_type
        if depth != 2 or not pyarrow.types.is_floating(kind):
            raise InputError(
                f"The column '{column}' of {name} is {schema.field(column).type}, not frames x "
                "columns of floating-point numbers: give the files of a dataset of runs."
            )


def _storage(kind: Any) -> Any:
    """What a type is made of; `datasets` gives lists of lists a name of its own."""
    return getattr(kind, "storage_type", kind)


def _plain_values(batch: Any) -> list[Row]:
    """The values of every row of a batch, but for lists and bytes; dates and the like as text."""
    import pyarrow.types as types

    names, columns = _class_names(batch.schema), {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        kind = _storage(field.type)
        if field.name in ARRAYS or types.is_nested(kind) or "binary" in str(kind):
            continue
        values = [x.item() if isinstance(x, np.generic) else x for x in column.to_pylist()]
        values = [x if isinstance(x, str | int | float | None) else str(x) for x in values]
        if types.is_float32(kind) or types.is_float16(kind):
            # 0.72 is no float32; the shortest number that is the same one is meant.
            exact = kind.to_pandas_dtype()
            values = [None if value is None else float(str(exact(value))) for value in values]
        if field.name in names:
            labels = dict(enumerate(names[field.name]))
            values = [labels.get(value) for value in values]
        columns[field.name] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of the classes of columns that hold their numbers, as `datasets` writes them down."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature["names"], list)
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _matrix(column: Any, row: int, what: str) -> np.ndarray:
    """(T, C) of a row, a view of the file unless its frames are in another order there."""
    import pyarrow.compute

    frames = getattr(column, "storage", column)[row].values
    if frames is None or not len(frames):
        raise InputError(f"{what} has no frame: get the file again.")
    widths = set(pyarrow.compute.list_value_length(frames).to_pylist())
    values = frames.flatten()
    if values.null_count or len(widths) > 1 or None in widths:
        raise InputError(f"{what} is not frames x columns of numbers: get the file again.")
    return values.to_numpy(zero_copy_only=True).reshape(len(frames), -1)


def find_splits(folder: str, wanted: list[str] | None = None) -> dict[str, list[str]]:
    """The files of each split of a folder, a path or URL; `wanted` names splits, by default all.

    The name is "" where the folder itself is the only split.
    """
    folder = folder.rstrip("/")
    own = _files(folder)
    if own:
        splits = {"": own}
    else:
        saved = _read_json(folder, "dataset_dict.json")
        names = saved.get("splits") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{folder}/dataset_dict.json lists no splits: save the dataset again.")
        for name in names:
            check_file_name(name, f"In {folder} the split")
        names = names or [base_name(place) for place in list_directory(folder, "*")]
        found = {name: _files(f"{folder}/{name}") for name in names}
        empty = [name for name, files in found.items() if not files]
        if saved and empty:
            raise InputError(f"{folder} lacks the files of its split '{empty[0]}': get them again.")
        splits = {name: files for name, files in sorted(found.items()) if files}
        for name in splits:
            check_file_name(name, f"In {folder} the split")
    if not splits:
        raise InputError(f"{folder} holds no Arrow file and no folder of them: check the path.")
    if not wanted:
        return splits
    if own:
        raise InputError(f"{folder} has no splits, it is one itself: leave out --splits.")
    if missing := [name for name in wanted if name not in splits]:
        raise unknown(f"{folder} has no split '{missing[0]}'", splits)
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
        return parse_json(file.read(), f"{folder}/{name}", "copy it again")
