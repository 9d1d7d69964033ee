"""Sweeps whose points are a few lines of Python: launchers do not care what they launch."""

import textwrap
from pathlib import Path

from fmrifm.sweep.ledger import Ledger, open_ledger
from fmrifm.sweep.sweep_file import Experiment, Sweep


def make_sweep(workdir: Path, **codes: str | list[str]) -> Ledger:
    """A sweep with a point for each keyword: the code of its stages, run in its directory."""
    experiments = []
    for name, stages in codes.items():
        place = workdir / name
        begin = f"import os, sys, time, signal; os.chdir({str(place)!r})\n"
        stages = [stages] if isinstance(stages, str) else stages
        commands = [["-c", begin + textwrap.dedent(code)] for code in stages]
        experiments.append(Experiment(name, {"seed": len(experiments)}, str(place), commands))
    workdir.mkdir(exist_ok=True)
    return open_ledger(Sweep("fake.py", experiments, ()), workdir)


# Each start adds a line; the work is over after `steps` of them, however often it is stopped.
STEPS = """
done = len(open("steps").readlines()) if os.path.exists("steps") else 0
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
while done < {steps}:
    time.sleep(0.05)
    done += 1
    with open("steps", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    if asked:
        sys.exit(75)
"""
