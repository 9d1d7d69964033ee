"""Splits the subjects of stores into lists: whole people, and whole families.

    python -m data_tools.split STORE [STORE ...] --output=DIR --shares=train=0.8,val=0.1,test=0.1

leaves DIR/train.txt, val.txt and test.txt, one subject a line, to be used as filters of a store
(`STORE?subject=DIR/train.txt`), and DIR/split.json, which says how they were made. No subject is in
two lists; with `--groups=FIELD` neither are subjects who share a value of that field of the run
table, such as a family. Lists are the same whenever stores, seed and shares are, in any order.

Groups come in an order drawn from the seed, and each goes to the split that lacks most subjects. So
every split misses its share by less than the largest group, provided that each is due as many
subjects as that group has.

    python -m data_tools.split STORE [STORE ...] --output=DIR --published=task21

splits as a benchmark does (`configs/splits`, or a file of that form): lists of run keys, to be used
as `STORE?key=DIR/train.txt`, and labels.json, the classes of its target.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.errors import InputError, kind_errors
from data_tools.files.atomic import publish_directory
from data_tools.flags import command_parser
from data_tools.overlap import refuse_copies
from data_tools.published.published_split import (
    choose_runs,
    count_split,
    describe_counts,
    list_keys,
    read_split,
)
from data_tools.store.selection import Selection, group_subjects, is_known, open_selection

_SHARES = "train=0.8,val=0.1,test=0.1"


def split_subjects(
    runs: Iterable[dict[str, Any]],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    groups: str | None = None,
) -> dict[str, list[str]]:
    """Splits the subjects of run tables at random, groups never straddling.

    `shares` of the subjects, by the name of the split, sum to 1; `seed` sets the order in which
    groups are dealt out; `groups` is a field of the run table that subjects of one group share.
    Every subject is in exactly one of the sorted lists of labels.
    """
    total = sum(shares.values())
    if not shares or min(shares.values()) <= 0 or not abs(total - 1) < 1e-6:
        raise InputError(f"The shares sum to {total:g}: give shares above 0 that sum to 1.")
    families = group_subjects(runs, groups)
    if len(families) < len(shares):
        raise InputError(
            f"{len(shares)} splits need a group of subjects each, and the number of groups is "
            f"{len(families)}: give more stores or fewer shares."
        )
    # Sorting by a hash is a shuffle, the same on every machine and with every version of NumPy.
    families.sort(key=lambda x: hashlib.sha256(json.dumps([seed, *x[0]]).encode()).digest())
    n_subjects = sum(map(len, families))
    lacking = {name: share * n_subjects for name, share in shares.items()}
    splits: dict[str, list[str]] = {name: [] for name in shares}
    for dealt, family in enumerate(families):
        empty = [name for name in splits if not splits[name]]
        # The last groups are kept for splits so small that they never lacked the most.
        open_to = empty if len(empty) == len(families) - dealt else splits
        name = max(open_to, key=lacking.__getitem__)
        lacking[name] -= len(family)
        splits[name] += [label for _, label in family]
    return {name: sorted(labels) for name, labels in splits.items()}


def parse_shares(text: str) -> dict[str, float]:
    """{"train": 0.8, "test": 0.2} of "train=0.8,test=0.2"."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\w[\w.-]*)=(\d*\.?\d+)", part.strip())
        if not match or match[1] in shares:
            raise InputError(
                f"'{part}' of --shares={text} is no NAME=SHARE with a name of its own: write "
                "train=0.8,val=0.1,test=0.1, say."
            )
        shares[match[1]] = float(match[2])
    return shares


def describe_split(
    selections: Sequence[Selection],
    splits: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    seed: int,
    groups: str | None,
) -> dict[str, Any]:
    """What split.json says: how the lists were made and what is in them, but nobody's name."""
    runs = [run for selection in selections for run in selection.lines]
    families = group_subjects(runs, groups)
    counts = {}
    for name, labels in splits.items():
        listed = set(labels)
        kept = [run for run in runs if str(run["subject"]) in listed]
        counts[name] = {
            "subjects": len(listed),
            "groups": sum(family[0][1] in listed for family in families),
            "runs": len(kept),
            "frames": sum(run["n_frames"] for run in kept),
        }
    stores = [
        {
            "name": selection.store.name,
            "geometry_sha256": selection.store.meta["geometry_sha256"],
            "runs": len(selection.runs),
        }
        for selection in selections
    ]
    return {
        "tool": "data_tools.split",
        "seed": seed,
        "shares": dict(shares),
        "groups": groups,
        "splits": counts,
        "stores": sorted(stores, key=lambda store: json.dumps(store, sort_keys=True)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.split", __doc__)
    add = parser.add_argument
    add("stores", nargs="+", metavar="STORE", help="stores, also as STORE?field=pattern")
    add("--output", required=True, type=Path, metavar="DIR", help="directory to make")
    add(
        "--shares",
        metavar="NAME=SHARE,...",
        help=f"splits and their shares of the subjects ({_SHARES})",
    )
    add("--seed", type=int, help="of the shuffle (0)")
    add("--groups", metavar="FIELD", help="field that keeps subjects together, such as family")
    add("--published", metavar="NAME", help="a published split, or its file, in place of shares")
    args = parser.parse_args(argv)
    with kind_errors():
        if args.output.exists() and not (args.output.is_dir() and not any(args.output.iterdir())):
            raise InputError(f"{args.output} exists already: choose another path or delete it.")
        selections = [open_selection(text) for text in args.stores]
        if len({os.path.realpath(selection.store.path) for selection in selections}) < len(
            selections
        ):
            raise InputError("A store is given twice: name every store once.")
        if args.published:
            _split_as_published(args, selections)
            return
        shares, seed = parse_shares(args.shares or _SHARES), args.seed or 0
        runs = [run for selection in selections for run in selection.lines]
        refuse_copies(selections)
        splits = split_subjects(runs, shares, seed=seed, groups=args.groups)
        description = describe_split(selections, splits, shares, seed, args.groups)
        _write(args.output, splits, description)
        _report(args, runs, splits, description)


def _write(
    output: Path,
    lists: Mapping[str, Sequence[str]],
    description: dict[str, Any],
    labels: Mapping[str, str] | None = None,
) -> None:
    with publish_directory(output) as directory:
        for name, words in lists.items():
            (directory / f"{name}.txt").write_text("".join(f"{word}\n" for word in words))
        for name, value in (("split.json", description), ("labels.json", labels)):
            if value:
                (directory / name).write_text(json.dumps(value, indent=2) + "\n")


def _split_as_published(args: argparse.Namespace, selections: Sequence[Selection]) -> None:
    given = [name for name in ("shares", "seed", "groups") if getattr(args, name) is not None]
    if given:
        raise InputError(f"--published says who goes where: leave --{given[0]} out.")
    split = read_split(args.published)
    runs = choose_runs(split, [run for some in selections for run in some.lines])
    counts = {name: count_split(split, some) for name, some in runs.items()}
    stores = [selection.store.name for selection in selections]
    about = {"about": split.about, "target": split.target, "splits": counts, "stores": stores}
    lists = {name: list_keys(some) for name, some in runs.items()}
    _write(args.output, lists, {"tool": "data_tools.split"} | about, split.labels)
    print(describe_counts(split, counts))
    first = args.output / next(iter(lists))
    print(
        f"Lists are in {args.output}; use them as STORE?key={first}.txt with the target "
        f"{split.target}"
    )


def _report(args, runs, splits, description) -> None:
    print(f"{'split':<12}{'subjects':>10}{'groups':>10}{'runs':>10}{'frames':>14}")
    for name, count in description["splits"].items():
        print(
            f"{name:<12}{count['subjects']:>10,}{count['groups']:>10,}{count['runs']:>10,}"
            f"{count['frames']:>14,}"
        )
    if args.groups:
        grouped = {str(run["subject"]) for run in runs if is_known(run.get(args.groups))}
        alone = sum(map(len, splits.values())) - len(grouped)
        if alone:
            print(f"Subjects without a '{args.groups}', each a group of its own: {alone}.")
    first = next(iter(splits))
    print(f"Lists are in {args.output}; use them as STORE?subject={args.output / first}.txt")


if __name__ == "__main__":
    main()
