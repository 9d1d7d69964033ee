"""`python -m data_tools.inspect STORE [--verify] [--png=F]`: what is in a store.

Prints a summary; `--verify` also reads every byte and compares checksums; `--png` draws frames.
(Named like a module of the standard library: run it as a module, never put `data_tools` itself on
`sys.path`.)
"""

import argparse
import collections
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError, kind_errors
from data_tools.store import Store

_WIDTH = 15  # of the first column
_LONGEST_TABLE = 20


def summary(store: Store) -> str:
    """A page of text on what a store holds."""
    return "\n".join(_lines(store))


def verify(store: Store) -> None:
    """Compares every checksum, showing progress.

    Raises:
      InputError: some do not match; names the keys of these runs.
    """
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


def _lines(store: Store) -> Iterator[str]:
    runs, geometry, meta = store.runs, store.geometry, store.meta
    height, width = geometry.mask.shape
    rows, columns = geometry.grid
    lengths = [run["n_frames"] for run in runs]
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    yield str(store.path)
    yield _row(
        "format",
        f"{meta['format']} version {meta['version']}, {meta['dtype']}, "
        f"{_count(len(meta['shards']), 'shard')}, {_bytes(size)} on disk",
    )
    yield _row("space", f"{geometry.space}: frames of {height} x {width} pixels")
    if geometry.pixel_size:
        xmin, xmax, ymin, ymax = geometry.bbox
        yield _row(
            "", f"of {geometry.pixel_size:g} mm; x {xmin:g} to {xmax:g}, y {ymin:g} to {ymax:g} mm"
        )
    yield _row(
        "patches",
        f"{geometry.n_patches:,} cortical of {rows * columns:,} ({rows} x {columns} grid), each "
        f"{geometry.patch_shape[0]} x {geometry.patch_shape[1]}",
    )
    filled = geometry.n_pixels / geometry.patch_mask.size
    yield _row("valid pixels", f"{geometry.n_pixels:,} ({filled:.1%} of the values stored)")
    yield _row("TR", f"{store.tr:g} s{_other_trs(store)}")
    yield _row(
        "runs",
        f"{_count(len(runs), 'run')} of {_range(lengths)} frames; {sum(lengths):,} frames, "
        f"{_duration(sum(lengths) * store.tr)}",
    )
    people = {_person(run) for run in runs}
    sessions = {(*_person(run), run.get("session")) for run in runs}
    yield _row("subjects", f"{len(people):,}; sessions: {len(sessions):,}")
    yield _row("missing", _missing(store))
    yield _row("scale", "mean and std before z-scoring" if store.has_scale else "not stored")
    yield from _task_table(store)
    yield from _event_table(runs)
    yield from _fields("preprocessing", store.preprocessing)
    yield from _fields("provenance", meta.get("provenance") or {})


def _row(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH}}{value}"


def _person(run: dict[str, Any]) -> tuple[Any, Any]:
    return run.get("dataset"), run.get("subject")


def _other_trs(store: Store) -> str:
    others = sorted({run.get("tr", store.tr) for run in store.runs} - {store.tr})
    return f" (runs list {', '.join(f'{tr:g}' for tr in others)} s)" if others else ""


def _missing(store: Store) -> str:
    counts = [len(m) for i in range(len(store.runs)) if (m := store.missing(i)) is not None]
    if not counts:
        return "no pixel in any run"
    share = max(counts) / store.geometry.n_pixels
    return f"pixels in {_count(len(counts), 'run')}, at most {max(counts):,} ({share:.2%})"


def _task_table(store: Store) -> Iterator[str]:
    groups = collections.defaultdict(list)
    for run in store.runs:
        groups[str(run.get("dataset") or "-"), str(run.get("task") or "-")].append(run)
    table = []
    for (dataset, task), runs in sorted(groups.items()):
        frames = sum(run["n_frames"] for run in runs)
        subjects = len({_person(run) for run in runs})
        minutes = f"{frames * store.tr / 60:,.1f}"
        table.append([dataset, task, f"{subjects:,}", f"{len(runs):,}", f"{frames:,}", minutes])
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


def _table(head: list[str], rows: list[list[str]], n_text: int) -> Iterator[str]:
    """A table with its first `n_text` columns to the left and numbers to the right."""
    hidden = len(rows) - _LONGEST_TABLE
    rows = [head, *rows[:_LONGEST_TABLE]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield ""
    for row in rows:
        cells = [
            f"{cell:<{width}}" if i < n_text else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
    if hidden > 0:
        yield f"  ... and {hidden:,} more"


def _fields(title: str, fields: dict[str, Any]) -> Iterator[str]:
    if fields:
        width = max(_WIDTH, *(len(name) + 2 for name in fields))
        yield ""
        yield f"  {title}"
        for name, value in fields.items():
            yield f"    {name:<{width - 2}}{_text(value)}"


def _text(value: Any) -> str:
    """A JSON value as people write it."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_text(x)}" for name, x in value.items())
    return "none" if value is None else str(value)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {np.median(values):,.0f})"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _bytes(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}" if n < 100 else f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.2f} TB"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.inspect", description="What is in a store."
    )
    parser.add_argument("store", metavar="STORE", help="directory of the store")
    parser.add_argument("--verify", action="store_true", help="read all, compare every checksum")
    parser.add_argument("--png", metavar="F", type=Path, help="draw frames of the first runs here")
    flags = parser.parse_args(arguments)
    with kind_errors():
        store = Store(flags.store)
        print(summary(store), flush=True)
        if flags.png:
            from data_tools.store_picture import write_picture  # needs matplotlib

            write_picture(store, flags.png)
            print(f"\nPicture: {flags.png}", flush=True)
        if flags.verify:
            verify(store)
            print(f"\nAll checksums of {_count(len(store.runs), 'run')} match.", flush=True)


if __name__ == "__main__":
    main()
