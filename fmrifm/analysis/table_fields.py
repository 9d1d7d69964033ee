"""In which fields runs differ, and which of them make a difference."""

from collections.abc import Iterable, Sequence
from typing import Any

from fmrifm.analysis.runs import Run
from fmrifm.trainer.start import BEFORE, HARMLESS

# The stores of a probe amid training do change its scores.
_HARMLESS = tuple(name for name in HARMLESS if name != "probe.")
_NO_COLUMN = {"seed", "probe.every", "run", "wait", "cache_dir"}


def field_names(runs: Iterable[Run]) -> list[str]:
    """All fields of configs, in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.config))


def differing(runs: Sequence[Run]) -> list[str]:
    """The fields of which single runs have different values, the seed always among them."""
    return [
        name
        for name in field_names(runs)
        if name == "seed" or len({repr(plain(value_of(run, name))) for run in runs}) > 1
    ]


def same_in_effect(runs: Sequence[Run]) -> list[str]:
    """The fields in which runs of a row differ though they are no seeds: they change rounding."""
    return [name for name in differing(runs) if name != "seed" and not is_column(name)]


def value_of(run: Run, name: str) -> Any:
    """What a run was asked for, or did before there was such a field."""
    return run.config.get(name, BEFORE.get(name))


def is_column(name: str) -> bool:
    return name not in _NO_COLUMN and not name.startswith(_HARMLESS)


def plain(value: Any) -> Any:
    """1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
