"""What people may see of a store, in words: its facts, its runs without restricted columns.

`store.json` may list columns of the run table as restricted, such as the family of a subject. They
stay out of everything that is printed, drawn or written about a store, which therefore all begins
here.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_tools.store.reader import Store
from data_tools.wording import count, format_bytes


def shown_runs(store: Store) -> list[dict[str, Any]]:
    """The lines of the run table without restricted columns; keys and lengths are always there."""
    hidden = store.restricted - {"key", "n_frames"}
    return [{name: run[name] for name in run if name not in hidden} for run in store.runs]


def skipped_runs(store: Store) -> list[dict[str, str]]:
    """Key, path and reason of the runs that a conversion left out; empty texts where unknown."""
    return [
        {name: str(line.get(name) or "") for name in ("key", "path", "reason")}
        for line in store.skipped()
    ]


def facts(store: Store) -> Iterator[tuple[str, str]]:
    """What a store holds, name by name; an empty name goes on with the one before."""
    runs, geometry, meta = shown_runs(store), store.geometry, store.meta
    height, width = geometry.mask.shape
    rows, columns = geometry.grid
    lengths = [run["n_frames"] for run in runs]
    yield (
        "format",
        f"{meta['format']} version {meta['version']}, {meta['dtype']}, "
        f"{count(len(meta['shards']), 'shard')}, {format_bytes(store.n_bytes)} of arrays",
    )
    yield "space", f"{geometry.space}: frames of {height} x {width} pixels"
    if geometry.pixel_size:
        xmin, xmax, ymin, ymax = geometry.bbox
        yield (
            "",
            f"of {geometry.pixel_size:g} mm; x {xmin:g} to {xmax:g}, y {ymin:g} to {ymax:g} mm",
        )
    if geometry.regions:
        yield "", f"parcels in this order: {geometry.regions[0]} ... {geometry.regions[-1]}"
    if geometry.source_sha256:
        yield "", f"made from parcels or voxels of checksum {geometry.source_sha256[:12]}"
    yield (
        "patches",
        f"{geometry.n_patches:,} cortical of {rows * columns:,} ({rows} x {columns} grid), each "
        f"{geometry.patch_shape[0]} x {geometry.patch_shape[1]}",
    )
    filled = geometry.n_pixels / geometry.patch_mask.size
    yield "valid pixels", f"{geometry.n_pixels:,} ({filled:.1%} of the values stored)"
    trs = sorted({run.get("tr", store.tr) for run in runs} - {store.tr})
    others = ", ".join(f"{tr:g}" for tr in trs)
    yield "TR", f"{store.tr:g} s" + (f" (runs list {others} s)" if others else "")
    low, high, seconds = min(lengths), max(lengths), sum(lengths) * store.tr
    spread = f"{low:,}" + (f" to {high:,} (median {np.median(lengths):,.0f})" if low < high else "")
    time = f"{seconds / 60:,.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"
    yield "runs", f"{count(len(runs), 'run')} of {spread} frames; {sum(lengths):,} frames, {time}"
    sessions = {(*_person(run), str(run.get("session"))) for run in runs}
    yield "subjects", f"{n_subjects(runs)}; sessions: {len(sessions):,}"
    yield "missing", _missing(store)
    yield "scale", "mean and std before z-scoring" if store.has_scale else "not stored"


def n_subjects(runs: Sequence[dict[str, Any]]) -> str:
    """The number of subjects of runs, "-" if the run table must not tell."""
    told = any("subject" in run for run in runs)
    return f"{len({_person(run) for run in runs}):,}" if told else "-"


def qc_values(runs: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A quality figure of the runs that have it."""
    return [value for run in runs if is_number(value := (run.get("qc") or {}).get(name))]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_text(value: Any) -> str:
    """A JSON value as people write it."""
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={as_text(x)}" for name, x in value.items())
    return "none" if value is None else str(value)


def _person(run: dict[str, Any]) -> tuple[Any, Any]:
    return str(run.get("dataset")), str(run.get("subject"))


def _missing(store: Store) -> str:
    counts = [len(m) for i in range(len(store.runs)) if (m := store.missing(i)) is not None]
    if not counts:
        return "no pixel in any run"
    share = max(counts) / store.geometry.n_pixels
    return f"pixels in {count(len(counts), 'run')}, at most {max(counts):,} ({share:.2%})"
