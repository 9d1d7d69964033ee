"""Shows what is in a store, and checks it.

    python -m data_tools.inspect STORE [--verify] [--png=FILE] [--report=DIR]

Prints a summary: sizes, tasks, quality of the runs, and whether frames are like those that models
are trained on (see `typical`). `--verify` also reads every byte and compares checksums; `--png`
draws frames; `--report` writes a page with pictures and a table of all runs. After a change on
purpose of `runs.jsonl` or another of the small files, `--update-checksums` writes their checksums
again, and adds them to a store of version 0.1.
(Named like a module of the standard library: run it as a module, never put `data_tools` itself on
`sys.path`.)
"""

import collections
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError, kind_errors
from data_tools.files.remote import is_url
from data_tools.flags import command_parser
from data_tools.inspect.facts import (
    as_text,
    facts,
    n_subjects,
    qc_values,
    shown_runs,
    skipped_runs,
)
from data_tools.inspect.typical import far_from_typical, is_typical, median_figures, typical_range
from data_tools.reports import text_tables
from data_tools.store.checksums import write_checksums
from data_tools.store.reader import Store
from data_tools.timeseries.quality import FRAME_MEASURES, QC_MEASURES, frame_figures, thinned
from data_tools.wording import count

_WIDTH = 15  # of the first column
_LONGEST_TABLE = 20
_SAMPLED_RUNS = 8  # whose frames are read: some 100 MB a run
_SKIPPED_SHOWN = 5
_VERDICTS = {True: "typical", False: "far from typical", None: "not compared"}


def summary(store: Store) -> str:
    """A page of text on what a store holds."""
    return "\n".join(_lines(store))


def verify(store: Store) -> None:
    """Compares every checksum, showing progress."""
    import tqdm

    frames = [run["n_frames"] for run in store.runs]
    bad = []
    with tqdm.tqdm(total=sum(frames), unit=" frames", desc="verify", file=sys.stderr) as bar:
        for n_frames, (key, intact) in zip(frames, store.verify(), strict=True):
            if not intact:
                bad.append(key)
            bar.update(n_frames)
    if bad:
        raise InputError(
            f"{len(bad)} of {len(frames)} runs of {store.path} do not match their checksums "
            f"({', '.join(bad)}): copy the store again, or make it again from its source."
        )


def update_checksums(path: str) -> None:
    """Writes the checksums of the small files of a store again, after checks of all they say."""
    if is_url(path):
        raise InputError(f"{path} is not on a disk here: change a copy and upload it.")
    write_checksums(Path(Store(path, check_files=False).path))


def _lines(store: Store) -> Iterator[str]:
    runs = shown_runs(store)
    yield str(store.path)
    for name, value in facts(store):
        yield f"  {name:<{_WIDTH}}{value}"
    yield from _task_table(runs, store.tr)
    yield from _event_table(runs)
    yield from _qc_table(runs)
    yield from _typical_table(store)
    yield from _skipped(store)
    yield from _fields("preprocessing", store.preprocessing)
    yield from _fields("provenance", store.meta.get("provenance") or {})


def _task_table(runs: Iterable[dict[str, Any]], tr: float) -> Iterator[str]:
    groups = collections.defaultdict(list)
    for run in runs:
        groups[str(run.get("dataset") or "-"), str(run.get("task") or "-")].append(run)
    table = []
    for (dataset, task), members in sorted(groups.items()):
        frames = sum(run["n_frames"] for run in members)
        minutes = f"{frames * tr / 60:,.1f}"
        table.append(
            [dataset, task, n_subjects(members), f"{len(members):,}", f"{frames:,}", minutes]
        )
    yield from _table(["dataset", "task", "subjects", "runs", "frames", "minutes"], table, n_text=2)


def _event_table(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    kinds, within = collections.Counter(), collections.Counter()
    for run in runs:
        names = [str(event.get("trial_type", "-")) for event in run.get("events") or []]
        kinds.update(names)
        within.update(set(names))
    if kinds:
        table = [[name, f"{n:,}", f"{within[name]:,}"] for name, n in kinds.most_common()]
        yield from _table(["event (trial_type)", "events", "runs"], table, n_text=1)


def _qc_table(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    table = []
    for name, measure in QC_MEASURES.items():
        values = qc_values(runs, name)
        if values:
            extremes = (min(values), np.median(values), max(values))
            table.append([measure.label, *map(measure.text, extremes), f"{len(values):,}"])
    if table:
        yield from _table(["quality", "lowest", "median", "highest", "runs"], table, n_text=1)


def _typical_table(store: Store) -> Iterator[str]:
    sampled = thinned(np.arange(len(store.runs)), _SAMPLED_RUNS)
    figures = median_figures([frame_figures(store, int(run)) for run in sampled])
    table = []
    for name, value in figures.items():
        measure, limits = FRAME_MEASURES[name], typical_range(name, store.tr)
        verdict = _VERDICTS[is_typical(name, value, store.tr)]
        expected = f"{limits[0]:g} to {limits[1]:g}" if limits else "is of frames of 1 s"
        table.append([measure.label, verdict, measure.text(value), expected])
    title = "like data that models are trained on?"
    median = f"median of {count(len(sampled), 'run')}"
    yield from _table([title, "", median, "typical range"], table, n_text=2)
    for sentence in far_from_typical(figures, store.tr):
        yield textwrap.fill(sentence, 100, initial_indent="  ! ", subsequent_indent="    ")


def _skipped(store: Store) -> Iterator[str]:
    skipped = skipped_runs(store)
    if not skipped:
        return
    yield ""
    yield f"  skipped: {count(len(skipped), 'run')} could not be converted"
    for run in skipped[:_SKIPPED_SHOWN]:
        yield f"    {run['key']}: {run['reason']}"
    if len(skipped) > _SKIPPED_SHOWN:
        yield f"    ... and {len(skipped) - _SKIPPED_SHOWN:,} more"


def _table(head: list[str], rows: list[list[str]], n_text: int) -> Iterator[str]:
    """A table with its first `n_text` columns to the left and numbers to the right."""
    hidden = len(rows) - _LONGEST_TABLE
    yield ""
    for line in text_tables.as_text([head, *rows[:_LONGEST_TABLE]], n_text):
        yield f"  {line}".rstrip()
    if hidden > 0:
        yield f"  ... and {hidden:,} more"


def _fields(title: str, fields: dict[str, Any]) -> Iterator[str]:
    if fields:
        width = max(_WIDTH, *(len(name) + 2 for name in fields))
        yield ""
        yield f"  {title}"
        for name, value in fields.items():
            yield f"    {name:<{width - 2}}{as_text(value)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.inspect", "What is in a store.")
    parser.add_argument("store", metavar="STORE", help="directory of the store")
    parser.add_argument("--verify", action="store_true", help="read all, compare every checksum")
    parser.add_argument("--png", metavar="F", type=Path, help="draw frames of the first runs here")
    parser.add_argument(
        "--report", metavar="DIR", type=Path, help="write a page with pictures here"
    )
    parser.add_argument(
        "--update-checksums",
        action="store_true",
        help="accept that runs.jsonl or other small files were changed on purpose",
    )
    flags = parser.parse_args(arguments)
    with kind_errors():
        if flags.update_checksums:
            update_checksums(flags.store)
        # Damaged runs are shown like others: --verify lists them all.
        store = Store(flags.store, check_runs=False)
        print(summary(store), flush=True)
        if flags.png:
            from data_tools.inspect.pictures import write_picture

            write_picture(store, flags.png)
            print(f"\nPicture: {flags.png}", flush=True)
        if flags.report:
            from data_tools.inspect.report import write_report

            print(f"\nReport: {write_report(store, flags.report)}", flush=True)
        if flags.verify:
            verify(store)
            print(f"\nAll checksums of {count(len(store.runs), 'run')} match.", flush=True)


if __name__ == "__main__":
    main()
