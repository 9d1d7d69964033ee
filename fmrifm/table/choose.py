"""What is in a table: which runs, in which rows and order, which metrics and reference."""

import dataclasses
import difflib
import math
import operator
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from data_tools.errors import InputError
from fmrifm.runs.finished import Run
from fmrifm.table.rows import Row, Table, direction, field_names, is_column, plain, value_of
from fmrifm.table.words import order, say

_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_CONDITION = re.compile(r"\s*([\w.]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")
_NEXT = re.compile(r",(?=\s*[\w.]+\s*(?:!=|<=|>=|=|<|>))")  # a value may have commas too


@dataclasses.dataclass(frozen=True)
class Condition:
    """A field, one of = != < <= > >=, and what stands behind it."""

    field: str
    operator: str
    wanted: str

    def holds(self, value: Any) -> bool:
        """Numbers compare as numbers, all else as text in which * is anything."""
        number = _number(value)
        if self.operator in _ORDERS:
            return number is not None and _ORDERS[self.operator](number, float(self.wanted))
        is_word = value is None or isinstance(value, bool)  # None, none
        wanted = self.wanted.lower() if is_word else self.wanted
        pattern = re.escape(wanted).replace(r"\*", ".*")
        same = re.fullmatch(pattern, say(value), re.DOTALL) is not None
        if not same and number is not None:
            same = number == _number(self.wanted)
        return same == (self.operator == "=")


def parse_conditions(text: str, fields: Iterable[str]) -> list[Condition]:
    """The conditions of a flag; all have to hold.

    Args:
      text: FIELD=VALUE,... with an operator each; endings of fields that are unambiguous do.
      fields: all that there are.
    """
    found, fields = [], list(fields)
    for part in _NEXT.split(text) if text.strip() else ():
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise InputError(f"'{part}' is no condition: write field=value, or !=, <, <=, >, >=.")
        name, operator, wanted = match.groups()
        if operator in _ORDERS and _number(wanted) is None:
            raise InputError(f"'{part}' compares with no number: give one, or use = or !=.")
        found.append(Condition(find_name(name, fields), operator, wanted))
    return found


def find_name(asked: str, names: Iterable[str]) -> str:
    """The name of a field or score, asked for in full or by an ending that no other has."""
    names = list(names)
    ends = [name for name in names if name.endswith((f".{asked}", f"/{asked}"))]
    if asked in names:
        return asked
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise InputError(f"'{asked}' may be {' or '.join(ends)}: write more of it.")
    short = {re.split("[./]", name)[-1]: name for name in names}
    near = difflib.get_close_matches(asked, [*names, *short], 1)
    hint = f"did you mean {short.get(near[0], near[0])}?" if near else "see config.json of a run."
    raise InputError(f"No run has '{asked}': {hint}")


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


_MODELS = ("model", "init_from")  # a probe of each seed's model names that seed in its path
_SEED = re.compile(r"(seed[-_=]?)\d+")


def make_table(
    runs: Sequence[Run],
    where: str = "",
    sort: str = "",
    reference: str = "",
    metrics: Sequence[str] = (),
) -> Table:
    """A table of runs.

    Args:
      where: conditions on fields of the runs that count, see `parse_conditions`.
      sort: fields and metrics, separated by commas, each with - before it for the largest first; by
        default the fields that differ.
      reference: conditions that hold for one row only. By default it is the row with the fewest
        fields unlike those of the others, which is what each row of an ablation changes one thing
        of; of several such rows the first.
      metrics: patterns of names; by default all that every run has and whose better end is known.
    """
    conditions = parse_conditions(where, field_names(runs))
    kept = [run for run in runs if all(c.holds(value_of(run, c.field)) for c in conditions)]
    if not kept:
        raise InputError(f"Of {len(runs)} runs none has {where}: loosen --where.")
    _check_checkpoints(kept)
    names = [name for name in field_names(kept) if is_column(name)]
    rows = _group(kept, names)
    fields = [x for x in names if len({repr(plain(row.fields[x])) for row in rows}) > 1]
    shown, left_out = _choose_metrics(kept, metrics)
    rows = _sort(rows, sort, names, fields, shown)
    found, why = _find_reference(rows, reference, names, fields)
    checkpoint = "" if kept[0].step is None else kept[0].checkpoint
    return Table(rows, fields, shown, left_out, found, why, checkpoint)


def _group(runs: Sequence[Run], names: Sequence[str]) -> list[Row]:
    groups: dict[str, dict[str, Run]] = {}
    fields: dict[str, dict[str, Any]] = {}
    for run in runs:
        found = {name: value_of(run, name) for name in names}
        seeds = [run.config.get("seed"), *(found.get(name) for name in _MODELS)]
        for name in _MODELS:
            if isinstance(found.get(name), str):
                found[name] = _SEED.sub(r"\1*", found[name])
        key = repr(plain(list(found.values())))
        fields[key] = found
        twin = groups.setdefault(key, {}).setdefault(repr(seeds), run)
        if twin is not run:
            raise InputError(
                f"{twin.path} and {run.path} have one seed and differ in nothing that changes "
                "numbers: leave one of them out."
            )
    return [Row(fields[key], tuple(some.values())) for key, some in groups.items()]


def _check_checkpoints(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        if (run.checkpoint, run.step is None) != (first.checkpoint, first.step is None):
            kinds = ["a probe" if x.step is None else x.checkpoint for x in (first, run)]
            raise InputError(
                f"{first.path} is told of by its checkpoint '{kinds[0]}', {run.path} by "
                f"'{kinds[1]}': take --checkpoint=last, or fewer --runs."
            )


def _choose_metrics(runs: Sequence[Run], patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is shown, and what only some runs have."""
    every = list(dict.fromkeys(name for run in runs for name in run.scores))
    lacking = {name: run for name in every for run in runs if name not in run.scores}
    if not patterns:
        shown = [name for name in every if name not in lacking and direction(name)]
        if not shown:
            raise InputError(
                "The runs have no score in common: give runs of one kind, or choose with --where."
            )
        return shown, [name for name in lacking if direction(name)]
    shown = {}
    for pattern in patterns:
        found = [name for name in every if fnmatchcase(name, pattern)]
        for name in found or [find_name(pattern, every)]:
            if name in lacking:
                raise InputError(
                    f"{lacking[name].path} has no {name}: leave it out, or choose other --metrics."
                )
            shown[name] = None
    return list(shown), []


def _sort(
    rows: list[Row], sort: str, names: list[str], fields: list[str], metrics: list[str]
) -> list[Row]:
    keys = [x.strip() for x in sort.split(",") if x.strip()] or fields
    for key in reversed(keys):  # each sort keeps the order of those before it
        down = key.startswith("-")
        name = find_name(key.removeprefix("-"), [*names, *metrics])
        if name in metrics:
            means = [row.mean(name) for row in rows]
            last = -math.inf if down else math.inf
            places = [last if math.isnan(mean) else mean for mean in means]
        else:
            places = [order(row.fields[name]) for row in rows]
        ranks = sorted(range(len(rows)), key=places.__getitem__, reverse=down)
        rows = [rows[i] for i in ranks]
    return rows


def _find_reference(
    rows: list[Row], asked: str, names: list[str], fields: list[str]
) -> tuple[Row, str]:
    if asked:
        conditions = parse_conditions(asked, names)
        found = [row for row in rows if all(c.holds(row.fields[c.field]) for c in conditions)]
        if len(found) != 1:
            raise InputError(f"--reference={asked} holds for {len(found)} rows: name one row.")
        return found[0], "as asked for"
    unlike = [
        sum(repr(plain(a.fields[x])) != repr(plain(b.fields[x])) for b in rows for x in fields)
        for a in rows
    ]
    why = "the first row" if len(set(unlike)) == 1 else "the row most like the others"
    return rows[unlike.index(min(unlike))], why
