"""Reads directories of runs, sweeps and probes as tables and reports do."""

from pathlib import Path

from tests.reliability.checks import refusing


def read_runs(folder: Path) -> None:
    from fmrifm.runs import finished
    from fmrifm.runs.provenance import read_starts
    from fmrifm.scaling.points import read_points
    from fmrifm.table.choose import make_table

    places = [str(folder / "run0"), str(folder / "run1")]
    with refusing():
        runs = finished.read_runs(places)
        make_table(runs)
        for run in runs:
            run.losses()
    with refusing():
        read_points(places)
    read_starts(folder / "run0")


def read_sweep(folder: Path) -> None:
    from fmrifm.runs import finished
    from fmrifm.sweep import status
    from fmrifm.sweep.ledger import Ledger

    with refusing():
        ledger = Ledger(folder / "sweep")
        status.describe_sweep(ledger, ledger.states())
        status.describe_failures(ledger)
        ledger.publish()
    with refusing():
        finished.read_runs([str(folder / "sweep")])


def read_results(folder: Path) -> None:
    from fmrifm.probe.results.compare import compare
    from fmrifm.probe.results.compare_rows import read_predictions

    with refusing():
        compare([folder / "probe"], folder / ".out")
    with refusing():
        read_predictions(folder / "probe" / "predictions_avg_patch_knn.npz", "test")
