"""Arrow files as the importers take them: sources of runs, one a file."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm

from data_tools.errors import InputError
from data_tools.outcomes import Outcome
from data_tools.published.arrow_files import Row, read_rows, read_sizes, read_values
from data_tools.published.arrow_rows import RowForm
from data_tools.published.runs import PublishedRun, Source
from data_tools.remote import base_name, is_url


def arrow_source(split: str, place: str, form: RowForm) -> Source:
    """A file of a split, "" where there are no splits, whose rows are of a form."""
    name = source_name(split, place)
    read, scan = (functools.partial(f, place, name, form) for f in (_read, _scan))
    return Source(name, read, scan, is_local=not is_url(place))


def source_name(split: str, place: str) -> str:
    """What messages and stores call a file of a split."""
    return f"{split}/{base_name(place)}" if split else base_name(place)


def read_split(split: str, places: Sequence[str], skip_damaged: bool) -> list[Row]:
    """The plain values of all rows of a split.

    Args:
      split: its name, "" where there are no splits.
      places: its files.
      skip_damaged: whether what cannot be read is left out, without a word: its source tells.

    Raises:
      InputError: a file cannot be read.
    """
    rows = []
    with tqdm.tqdm(places, f"read {split}".strip(), unit="file", leave=False, delay=1) as bar:
        for place in bar:
            try:
                rows.extend(read_values(place, source_name(split, place)))
            except InputError:
                if not skip_damaged:
                    raise
    return rows


def _read(place: str, name: str, form: RowForm) -> Iterator[PublishedRun | Outcome]:
    for row, arrays in read_rows(place, name):
        if not form.takes(row):
            continue
        try:
            yield form.run(row, arrays)
        except InputError as error:
            yield Outcome(form.key(row), Path(name), f"{name}: {error}")


def _scan(place: str, name: str, form: RowForm) -> Iterator[tuple[str, int, int]]:
    for row, (n_frames, n_columns) in read_sizes(place, name):
        if form.takes(row):
            yield form.key(row), n_frames, n_columns
