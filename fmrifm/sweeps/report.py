"""What a sweep leaves once all of its points are done: a table, and scaling laws if asked for."""

import os
import sys

from data_tools.errors import InputError
from fmrifm.sweeps.ledger import Ledger


def make_reports(ledger: Ledger) -> None:
    """Makes the reports that the sweep file asks for, and prints them.

    What cannot be reported is said; the points keep their results.
    """
    # Only here: launchers and --status start in a moment, and no accelerator is needed.
    import jax

    from fmrifm.analysis.runs import read_runs
    from fmrifm.analysis.scaling import fit_scaling
    from fmrifm.analysis.table import write_table

    jax.config.update("jax_platforms", "cpu")
    places = [
        os.path.join(ledger.directory, experiment.workdir)
        for experiment in ledger.experiments.values()
    ]
    makers = {
        "table": lambda: write_table(read_runs(places), ledger.workdir),
        "scaling": lambda: fit_scaling(places, ledger.workdir / "scaling"),
    }
    with ledger.reporting() as mine:
        for name in ledger.reports if mine else ():
            try:
                print(makers[name]())
            except (InputError, OSError) as error:
                print(f"No {name} was made: {error}", file=sys.stderr)
