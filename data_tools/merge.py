"""Joins stores of one kind: the parts of a conversion that was spread over machines.

    python -m data_tools.merge PART [PART ...] --output=STORE

`data_tools.convert --shard=i/n` leaves a store for each i; merged, they are byte for byte the store
that one conversion of all runs gives. Every checksum is verified on the way. A killed merge goes on
where it stopped.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tqdm

from data_tools.convert.skipped import finish_store, print_store, read_empty_shard
from data_tools.errors import InputError, kind_errors
from data_tools.flags import command_parser
from data_tools.store.checks import SET_BY_WRITER
from data_tools.store.json_text import parse_json
from data_tools.store.layout import PLACE
from data_tools.store.reader import SKIPPED, Store
from data_tools.store.writer import StoreWriter

_TOOL = "data_tools.merge"
# Fields of a run's line that the writer sets again.
_PLACED = SET_BY_WRITER | {"key", "missing"}


def merge_stores(
    parts: Sequence[Store], output: Path, *, empty: Sequence[Path] = (), overwrite: bool = False
) -> Store:
    """Merges open stores into one; their order does not matter.

    The provenance of the result is that of the parts if they agree, otherwise a list of theirs; its
    `skipped.jsonl` joins those of the parts and of `empty`, the shards without a good run.

    Raises:
      InputError: the parts differ in geometry, TR or preprocessing, hold a run twice or a damaged
        one; or a killed job left other runs at `output`.
    """
    if any(part.path.resolve() == Path(output).resolve() for part in parts):
        raise InputError(f"{output} is one of the parts: choose another path for the result.")
    _check_alike(parts)
    owners = _owners(parts)
    skipped = _join_skipped([*(part.path for part in parts), *empty])
    with StoreWriter(
        output,
        parts[0].geometry,
        tr=parts[0].tr,
        preprocessing=parts[0].preprocessing,
        provenance=_join_provenance(parts),
        restricted=sorted(set().union(*(part.restricted for part in parts))),
        overwrite=overwrite,
    ) as writer:
        begun = writer.begun()
        writer.refuse_others(begun.keys() - owners.keys(), "runs")
        total = sum(part.meta["n_frames"] for part in parts)
        with tqdm.tqdm(desc="merge", total=total, unit="frame") as bar:
            for part in parts:
                part = copy.copy(part)  # the files that it opens are closed with it
                for run, line in enumerate(part.runs):
                    # What an earlier, killed merge has of a run may not be what its part holds now.
                    there = begun.get(line["key"], {}) | {x: line[x] for x in PLACE}
                    if there != line or not writer.has(line["key"]):
                        _add(part, run, writer)
                    bar.update(line["n_frames"])
        return finish_store(writer, skipped)


def _check_alike(parts: Sequence[Store]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name in ("geometry_sha256", "tr", "preprocessing"):
            one, other = first.meta[name], part.meta[name]
            if one != other:
                what = name.removesuffix("_sha256")
                raise InputError(
                    f"{first.path} and {part.path} differ in {what}{_difference(one, other)}: "
                    "merge only stores that were converted alike."
                )


def _difference(one: Any, other: Any) -> str:
    """Where two settings differ, if that can be said in a few words."""
    if isinstance(one, dict):
        name = min(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
        one, other = one.get(name), other.get(name)
        return f" ({name}: {json.dumps(one)} and {json.dumps(other)})"
    return f" ({one:g} and {other:g} s)" if isinstance(one, int | float) else ""


def _owners(parts: Sequence[Store]) -> dict[str, Path]:
    """Which part each run is in; InputError if one is in two."""
    owners: dict[str, Path] = {}
    for part in parts:
        for line in part.runs:
            other = owners.setdefault(line["key"], part.path)
            if other is not part.path:
                raise InputError(
                    f"Run {line['key']} is in both {other} and {part.path}: merge stores that have "
                    "no run in common."
                )
    return owners


def _add(part: Store, run: int, writer: StoreWriter) -> None:
    line = part.runs[run]
    frames, scale = part.read(run, 0, line["n_frames"]), part.scale(run)
    mean, std = (None, None) if scale is None else scale
    fields = {name: value for name, value in line.items() if name not in _PLACED}
    writer.add(line["key"], frames, mean=mean, std=std, missing=part.missing(run), **fields)


def _join_provenance(parts: Iterable[Store]) -> dict[str, Any]:
    """The provenance that all parts have, or a list of theirs; merged parts stand for their own."""
    told = set()
    for part in parts:
        said = part.meta.get("provenance") or {}
        for one in said["parts"] if said.get("tool") == _TOOL else [said]:
            # Which shard a part was says nothing about the whole.
            whole = {name: value for name, value in one.items() if name != "shard"}
            told.add(json.dumps(whole, sort_keys=True))
    distinct = [json.loads(text) for text in sorted(told)]
    return distinct[0] if len(distinct) == 1 else {"tool": _TOOL, "parts": distinct}


def missing_shards(parts: Iterable[Store], empty: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Parts "I/N" of `convert --shard=I/N` that are not there, though others of N are."""
    told = [shard for part in parts if (shard := part.meta.get("provenance", {}).get("shard"))]
    there = {(int(i), int(n)) for i, n in [*told, *empty]}
    return [
        f"{i}/{n}" for n in sorted({n for _, n in there}) for i in range(n) if (i, n) not in there
    ]


def _join_skipped(parts: Iterable[Path]) -> bytes:
    """The lines of all lists of skipped runs, in the order of keys and paths."""
    lines = []
    for part in parts:
        path = part / SKIPPED
        for text in path.read_bytes().splitlines() if path.is_file() else ():
            said = parse_json(text, path)
            lines.append((str(said.get("key")), str(said.get("path")), text + b"\n"))
    return b"".join(text for *_, text in sorted(lines))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.merge", "Joins the parts of a conversion.")
    add = parser.add_argument
    add("parts", nargs="+", metavar="PART", help="stores with runs of their own, made alike")
    add("--output", required=True, type=Path, metavar="STORE", help="where it shall appear")
    add("--overwrite", action="store_true", help="replace an earlier store")
    args = parser.parse_args(argv)
    with kind_errors():
        found = {Path(path): read_empty_shard(Path(path)) for path in args.parts}
        empty = {path: shard for path, shard in found.items() if shard}
        parts = [Store(path) for path in found if path not in empty]
        if missing := missing_shards(parts, empty.values()):
            raise InputError(
                f"Not among the parts: shard {', '.join(missing)}; give all that were converted."
            )
        if not parts:
            raise InputError("In none of these shards was a run converted: there is no store.")
        store = merge_stores(parts, args.output, empty=list(empty), overwrite=args.overwrite)
        print_store(store, len(store.skipped()))


if __name__ == "__main__":
    main()
