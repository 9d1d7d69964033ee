"""How far a sweep is, as a table."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.reports.text_tables import as_text
from fmrifm.runs.sealed_lines import as_metrics, read_lines_backwards
from fmrifm.sweep.ledger import DONE, FAILED, RUNNING, STATUSES, Ledger

_EVERY = 2.0  # seconds between two looks


def show_status(ledger: Ledger) -> None:
    """Prints the table; on a terminal again and again while points run or are launched."""
    live = sys.stdout.isatty()
    with contextlib.suppress(OSError):  # who may only look cannot mend it
        ledger.publish()  # a kill leaves it behind
    while True:
        states = ledger.states()
        text = describe_sweep(ledger, states)
        print("\x1b[H\x1b[J" if live else "", end="")  # alone, as `Terminal` lets it through
        print(text, flush=True)
        running = any(state["status"] == RUNNING for state in states.values())
        if not live or not (running or ledger.is_launched()):
            return
        time.sleep(_EVERY)


def describe_sweep(ledger: Ledger, states: dict[str, dict[str, Any]]) -> str:
    """A line a point, and how many are in which state."""
    rows = [("point", "status", "step", "stage", "score")]
    for name, state in states.items():
        last = last_values(ledger.workdir / name)
        stages = len(ledger.experiments[name].commands)
        code = f" ({state['returncode']})" if state["status"] == FAILED else ""
        rows.append(
            (
                name,
                state["status"] + code,
                f"{last['step']:,.0f}" if "step" in last else "",
                f"{len(state['done'])} of {stages}" if stages > 1 else "",
                describe_score(last),
            )
        )
    found = [state["status"] for state in states.values()]
    counts = ", ".join(f"{found.count(x)} {x}" for x in STATUSES if x in found)
    lines = [line.rstrip() for line in as_text(rows, left=len(rows[0]))]
    return "\n".join([*lines, f"{len(found)} points: {counts}"])


def describe_failures(ledger: Ledger) -> str:
    """Points that failed, each with its last lines; "" where there is none."""
    parts = []
    for name, state in ledger.states().items():
        if state["status"] == FAILED:
            told = "\n".join(f"    {line}" for line in (state["error"] or "").splitlines())
            parts.append(f"{name} failed (exit {state['returncode']}):\n{told}")
    return "\n".join(parts)


def all_done(ledger: Ledger) -> bool:
    return all(state["status"] == DONE for state in ledger.states().values())


def describe_score(last: dict[str, float]) -> str:
    """The last evaluation of a point, by its newest values."""
    losses = {k[5:-5]: v for k, v in last.items() if k.startswith("eval/") and k.endswith("/loss")}
    return "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())


def last_values(workdir: Path) -> dict[str, float]:
    """The newest value of each metric, as far as the end of metrics.jsonl tells."""
    path, last = workdir / "metrics.jsonl", {}
    if not path.exists():
        return last
    begin = path.stat().st_size - 2**16
    for place, text in read_lines_backwards(path):
        if place < begin:
            break
        values = as_metrics(text) or {}
        last = {name: float(x) for name, x in values.items() if _is_number(x)} | last
    return last


def _is_number(value: Any) -> bool:
    # A whole number of JSON may be too large for a float.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def make_reports(ledger: Ledger) -> None:
    """Makes the reports that the sweep file asks for, and prints them.

    What cannot be reported is said; the points keep their results.
    """
    # Only here: launchers and --status start in a moment, and no accelerator is needed.
    import jax

    from fmrifm.runs.finished import read_runs
    from fmrifm.scaling.fit_scaling import fit_scaling
    from fmrifm.table.choose import make_table
    from fmrifm.table.write_table import write_table

    jax.config.update("jax_platforms", "cpu")
    places = [
        os.path.join(ledger.directory, experiment.workdir)
        for experiment in ledger.experiments.values()
    ]
    makers = {
        "table": lambda: write_table(make_table(read_runs(places)), ledger.workdir),
        "scaling": lambda: fit_scaling(places, ledger.workdir / "scaling"),
    }
    with ledger.reporting() as lock:
        for name in ledger.reports if lock is not None else ():
            try:
                print(makers[name]())
            except (InputError, OSError) as error:
                print(f"No {name} was made: {error}", file=sys.stderr)
