"""Conditions on fields, as flags give them: model.size=d3,optim.lr<=1e-3,data.train=*hcp*."""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Any

from data_tools.errors import InputError
from fmrifm.analysis.table_words import say

_ORDERS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
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

    Raises:
      InputError: what cannot be read, a field that is not there, or an order of what is no number.
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
    """The name of a field or score, asked for in full or by an ending that no other has.

    Raises:
      InputError: there is none, or several.
    """
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
