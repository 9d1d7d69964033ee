"""Scaling laws as text."""

from collections.abc import Sequence

from data_tools.reports.text_tables import as_markdown
from fmrifm.scaling.analyse import IsoFlop, Scaling
from fmrifm.scaling.laws import FEWEST, FLOOR, POWER, Choice, Fit
from fmrifm.scaling.points import SIZES

_LAWS = {POWER: "(N/a)^b", FLOOR: "E + (N/a)^b"}
_ABOUT = (
    "Laws of the masked loss, fitted to log L by robust least squares; in brackets 95 % intervals "
    "of a bootstrap. Held-out error: RMS of log L of larger runs as predicted from smaller ones; "
    "the law with the smaller one is best. Losses are those of ended schedules."
)


def describe(found: Sequence[Scaling], title: str = "") -> str:
    """All laws in Markdown, a section for each set and size."""
    heading = [f"# {title}\n"] if title else []
    return "\n".join([*heading, f"{_ABOUT}\n", *map(_section, found)])


def describe_fit(fit: Fit) -> dict[str, str]:
    """a, b and, of a law with a floor, E, each with its 95 % interval."""
    values = {"a": fit.a, "b": fit.b, "E": fit.E}
    intervals = fit.intervals().items()
    return {x: f"{values[x]:.3g} [{low:.3g}, {high:.3g}]" for x, (low, high) in intervals}


def _section(scaling: Scaling) -> str:
    group, choice = scaling.group, scaling.choice
    checkpoints = sorted({point.checkpoint for point in group.points})
    about = [f"N: {SIZES[group.x]}", f"{len(group.points)} runs", *filter(None, [group.alike])]
    about.append(f"checkpoint: {', '.join(checkpoints)}")
    lines = [f"## {scaling.title}, {group.x}\n", f"{'; '.join(about)}.\n"]
    if scaling.iso_flop:
        lines += _budgets(scaling.iso_flop)
    if choice is None:
        lines.append("Fewer than three budgets have a best loss: no law of it.\n")
    else:
        lines += _table(choice, len(scaling.x))
    return "\n".join(lines)


def _table(choice: Choice, n: int) -> list[str]:
    header = ("law", "a", "b", "E", "held-out error", "best", "n")
    body = []
    for law, fit in choice.fits.items():
        found, error = describe_fit(fit), choice.errors[law]
        told = ("-" if error is None else f"{error:.2g}", "yes" if law == choice.best else "")
        body.append([_LAWS[law], *(found.get(x, "-") for x in ("a", "b", "E")), *told, n])
    lines = [as_markdown(header, body)]
    if FLOOR not in choice.fits:
        lines.append(f"Three levels of N are too few for a floor: {FEWEST[FLOOR]} are needed.\n")
    elif choice.errors[FLOOR] is None:
        lines.append(
            f"{FEWEST[FLOOR]} levels of N are too few to tell which law is best: one more is "
            "needed. The one without a floor stands.\n"
        )
    return lines


def _budgets(iso_flop: IsoFlop) -> list[str]:
    """Minima of the parabolas, and the law of the best size."""
    lines = [f"- {budget.describe()}" for budget in iso_flop.budgets]
    if iso_flop.law is None:
        return [*lines, "", "Fewer than three budgets have a minimum: no law of the best size.\n"]
    law = describe_fit(iso_flop.law)
    return [
        *lines,
        "",
        f"Best size for a budget of C FLOPs: (C/k)^g with k = {law['a']}, g = {law['b']}, in "
        "encoder parameters. Laws of the best loss:\n",
    ]
