"""Lists what stores share: people, families, sessions, stimuli; refuses what must not be shared.

    python -m data_tools.overlap TRAIN TEST [--refuse=subject,family] [--count=session,nsd_id]

compares every pair of stores, each written as `[NAME=]STORE[?field=pattern]` (one name may stand
for several stores). Prints a table and ends with exit code 1 if a field of `--refuse` has a value
in two of them. A field is one of the run table or, where no run has it, of the events.

Which values are the same: a run's are compared within datasets of one name, since two datasets may
both have a subject 01, and a session is one of a subject; an event's, such as the number of an
image, are compared as they are. Labels of subjects that differ by "sub-", leading zeros or
punctuation are one person; those that differ in case are not, and are named. Runs of equal frames
are shared whatever they are called, which is refused as long as any field is. Values of fields that
a store calls restricted, and of families, are counted but never shown.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_tools.errors import InputError, kind_errors, unknown
from data_tools.flags import command_parser, words
from data_tools.reports.text_tables import as_text
from data_tools.store.identity import bare_label, name_people, some_of, twins_but_for_case
from data_tools.store.selection import Selection, field_names, is_known, open_selection, split_name
from data_tools.wording import count

_NEVER_SHOWN = frozenset({"family"})
# What it takes, besides the dataset, to tell a value of a field from others.
_WITHIN = {"session": ("subject", "session")}
_EXAMPLES = 3
FRAMES = "frames"  # what is called a field where runs have equal frames

Value = tuple[str, ...]  # dataset ("" for events), then what tells it apart within


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What two sets of runs share in one field.

    Attributes:
      a: name of the one set.
      b: name of the other.
      field: what was compared.
      shared: number of values in both.
      values: numbers of values in a and in b.
      runs: numbers of runs of a and of b with a value that is shared.
      unknown: numbers of runs of a and of b without a value.
      alike: number of values that are equal but for the name of the dataset.
      examples: a few of the shared values, none where the field must not be shown.
      twins: pairs of subjects that differ in case only.
    """

    a: str
    b: str
    field: str
    shared: int
    values: tuple[int, int]
    runs: tuple[int, int]
    unknown: tuple[int, int]
    alike: int
    examples: tuple[str, ...]
    twins: tuple[str, ...] = ()


def check_overlap(
    sets: Mapping[str, Sequence[Selection]], refuse: Sequence[str], count: Sequence[str] = ()
) -> list[Overlap]:
    """Compares every pair of sets and refuses what they must not share.

    Args:
      sets: runs of stores by the name of their set, such as "train" and "test".
      refuse, count: fields of which no value may be in two sets, or shared values are counted.

    Returns:
      For each pair of sets, what they share in each field of `refuse`, then of `count`.

    Raises:
      InputError: two sets share a value of a field in `refuse`, or one does not have the field at
        all; or no set has a field of `count`.
    """
    overlaps = find_overlaps(sets, [*refuse, *count])
    refuse_overlaps(overlaps, refuse)
    return overlaps


def find_overlaps(sets: Mapping[str, Sequence[Selection]], fields: Sequence[str]) -> list[Overlap]:
    """Lists the values that each pair of sets shares in each field.

    Runs of equal frames come last, where there are any, as a field of their own.

    Raises:
      InputError: no set has one of the fields.
    """
    runs = {name: [run for s in group for run in s.lines] for name, group in sets.items()}
    everything = list(itertools.chain.from_iterable(runs.values()))
    stores = [selection.store for group in sets.values() for selection in group]
    hidden = _NEVER_SHOWN.union(*(store.restricted for store in stores))
    people, compared = name_people(*runs.values()), {}
    for field in dict.fromkeys(fields):
        parts = _parts(field, everything)
        values = {name: [_values(run, field, parts, people) for run in runs[name]] for name in sets}
        compared[field] = values, hidden.isdisjoint(parts or [field])
    spellings = collections.defaultdict(set)
    for (dataset, label), name in people.items():
        spellings[dataset, name].add(label)
    overlaps = [
        _compare(a, b, field, *compared[field], spellings)
        for a, b in itertools.combinations(sets, 2)
        for field in compared
    ]
    for a, b in itertools.combinations(sets, 2):
        if pairs := equal_runs(sets[a], sets[b]):
            sides = [{line["key"] for line in side} for side in zip(*pairs, strict=True)]
            numbers, sizes = tuple(map(len, sides)), (len(runs[a]), len(runs[b]))
            examples = tuple(f"{x['key']} and {y['key']}" for x, y in pairs[:_EXAMPLES])
            overlaps.append(Overlap(a, b, FRAMES, len(pairs), sizes, numbers, (0, 0), 0, examples))
    return overlaps


def equal_runs(
    ours: Sequence[Selection], theirs: Sequence[Selection]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The lines of runs with equal frames, whatever they are called, of two lists of selections."""
    places = collections.defaultdict(list)
    for store, run in ((some.store, int(run)) for some in theirs for run in some.runs):
        places[store.runs[run]["n_frames"], store.runs[run]["crc32"]].append((store, run))
    found = []
    for store, run in ((some.store, int(run)) for some in ours for run in some.runs):
        line = store.runs[run]
        for other, r in places.get((line["n_frames"], line["crc32"]), ()):
            # Among many pairs of runs some checksums are equal by chance.
            same = (store.path, run) == (other.path, r)
            if same or np.array_equal(store.read(run, 0, 1), other.read(r, 0, 1)):
                found.append((line, other.runs[r]))
    return found


def refuse_copies(selections: Sequence[Selection]) -> None:
    """Refuses runs that are to be split by people, if two people have the same frames."""
    people = name_people(line for some in selections for line in some.lines)
    for pair in equal_runs(selections, selections):
        names = [(x["dataset"], people[str(x["dataset"] or ""), str(x["subject"])]) for x in pair]
        if names[0] != names[1]:
            raise InputError(
                f"Runs {pair[0]['key']} and {pair[1]['key']} of two people have equal frames, "
                "which would be learned from and tested on at once: leave one of them out."
            )


def refuse_overlaps(overlaps: Sequence[Overlap], fields: Sequence[str]) -> None:
    """Raises InputError if one of these fields has a shared value, or cannot be compared."""
    refused = {*fields, FRAMES} if fields else set()
    overlaps = [overlap for overlap in overlaps if overlap.field in refused]
    for o in overlaps:
        if 0 in o.values:
            raise InputError(
                f"No run of {o.b if o.values[0] else o.a} has a '{o.field}', so nobody knows "
                f"whether {o.a} and {o.b} share one: leave it out of the fields to refuse."
            )
    bad = [overlap for overlap in overlaps if overlap.shared]
    if not bad:
        return
    # Whoever is in two sets brings equal frames along, which is no news.
    bad = [overlap for overlap in bad if overlap.field != FRAMES] or bad
    o = bad[0]
    dots = ", ..." if o.shared > len(o.examples) else ""
    such = f" ({', '.join(o.examples)}{dots})" if o.examples else ""
    more = f", one of {len(bad)} such overlaps" if len(bad) > 1 else ""
    values = f"{count(o.shared, 'value')} of '{o.field}'"
    what = f"the frames of {count(o.shared, 'run')}" if o.field == FRAMES else values
    raise InputError(
        f"{o.a} and {o.b} share {what}{such}{more}: leave them out of one, or split them with "
        "python -m data_tools.split."
    )


def _parts(field: str, runs: Sequence[dict[str, Any]]) -> tuple[str, ...] | None:
    """The fields of a run that make up a value, or None if it is the events that have it."""
    if any(is_known(run.get(field)) for run in runs):
        return _WITHIN.get(field, (field,))
    events = [event for run in runs for event in run.get("events") or []]
    if any(is_known(event.get(field)) for event in events):
        return None
    raise unknown(f"No run and no event has a '{field}'", field_names([*runs, *events]))


def _values(
    run: dict[str, Any],
    field: str,
    parts: tuple[str, ...] | None,
    people: Mapping[tuple[str, str], str],
) -> set[Value]:
    """The values of a run: one of its own, or those of its events; of people their names."""
    if parts is None:
        found = (event.get(field) for event in run.get("events") or [])
        return {("", str(value)) for value in found if is_known(value)}
    if not is_known(run.get(field)):
        return set()
    dataset = str(run.get("dataset") or "")
    told = {"subject": people[dataset, str(run.get("subject") or "")]}
    told["session"] = bare_label(str(run.get("session") or "").removeprefix("ses-"))
    return {(dataset, *(told.get(part, str(run.get(part, ""))) for part in parts))}


def _compare(
    a: str,
    b: str,
    field: str,
    values_of: Mapping[str, list[set[Value]]],
    shown: bool,
    spellings: Mapping[tuple[str, str], set[str]],
) -> Overlap:
    """Two sets in one field, given the values of each of their runs."""
    sides = values_of[a], values_of[b]
    values = [set().union(*side) for side in sides]
    shared = values[0] & values[1]
    bare = [{value[1:] for value in side} for side in values]
    twins, examples = [], []
    if field == "subject":
        twins = twins_but_for_case(*({"/".join(filter(None, x)) for x in side} for side in values))
    for dataset, *parts in sorted(shared)[:_EXAMPLES]:
        if field in ("subject", "session"):
            parts[0] = " or ".join(sorted(spellings[dataset, parts[0]]))
        examples.append("/".join(filter(None, [dataset, *parts])))
    return Overlap(
        a,
        b,
        field,
        len(shared),
        tuple(len(side) for side in values),
        tuple(sum(not shared.isdisjoint(run) for run in side) for side in sides),
        tuple(sum(not run for run in side) for side in sides),
        len((bare[0] & bare[1]) - {value[1:] for value in shared}),
        tuple(examples) if shown else (),
        tuple(twins if shown else ["names that are not shown"] * len(twins)),
    )


def describe_twins(overlaps: Sequence[Overlap]) -> list[str]:
    """A sentence for each pair of sets with subjects that may be one person."""
    return [
        f"{o.a} and {o.b} have subjects that differ in case only, such as {some_of(o.twins)}: "
        "check whether they are the same people."
        for o in overlaps
        if o.twins
    ]


def table(overlaps: Sequence[Overlap]) -> str:
    """A page of text: a line for each pair of sets and field."""
    head = ["A", "B", "field", "shared", "of A", "of B", "runs A", "runs B", "without", "alike"]
    rows = [head] + [
        [
            *(o.a, o.b, o.field),
            *(f"{n:,}" for n in (o.shared, *o.values, *o.runs, sum(o.unknown), o.alike)),
        ]
        for o in overlaps
    ]
    return "\n".join(as_text(rows, left=3))


def _open_sets(texts: Sequence[str]) -> dict[str, list[Selection]]:
    sets = collections.defaultdict(list)
    for text in texts:
        name, place = split_name(text)
        if name is None and text in sets:
            raise InputError(f"{text} is given twice: give the stores that shall be compared.")
        sets[name or text].append(open_selection(place))
    if len(sets) < 2:
        raise InputError("One set of runs overlaps with nothing: give two stores or more.")
    return dict(sets)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser("data_tools.overlap", __doc__)
    add = parser.add_argument
    add("stores", nargs="+", metavar="STORE", help="[NAME=]STORE[?field=pattern]")
    add(
        "--refuse",
        type=words,
        default="subject",
        metavar="FIELD,...",
        help="fields of which no value may be in two stores (%(default)s)",
    )
    add("--count", type=words, default="", metavar="FIELD,...", help="fields to count only")
    args = parser.parse_args(argv)
    with kind_errors():
        overlaps = find_overlaps(_open_sets(args.stores), [*args.refuse, *args.count])
        print(table(overlaps))
        if any(sum(overlap.unknown) for overlap in overlaps):
            print("without: runs of both that have no value")
        if any(overlap.alike for overlap in overlaps):
            print("alike: values that are equal in datasets of different names")
        for warning in describe_twins(overlaps):
            print(warning)
        refuse_overlaps(overlaps, args.refuse)


if __name__ == "__main__":
    main()
