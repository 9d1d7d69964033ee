"""Seconds and memory of z-scoring and resampling a run, beside the reference's functions.

    python -m tests.benchmarks.preprocessing [--frames=1200 --vertices=59412 --tr=0.72]

Both sides z-score the same float32 noise in scanner units and resample it to 1 s, turn about, each
time in a process of its own that tells its peak memory. There the work is done twice: the second
time is that of every further run of a length, the first holds what is made once (our matrices). The
reference's functions are in the module `nisc` of the package cortex_mae; its z-scores differ by the
rounding of a float32 mean. What is compared after resampling began with the same z-scores. Prints
medians and spread; times depend on the machine.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import scipy
from tqdm import tqdm

from data_tools.timeseries import resampling
from data_tools.timeseries import zscore as preprocess

SIDES, KINDS, NEW_TR = ("ours", "theirs"), ("pchip", "cubic"), 1.0
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COMPARED = 512  # columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1200)
    parser.add_argument("--vertices", type=int, default=59412)
    parser.add_argument("--tr", type=float, default=0.72, help="seconds between frames")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of BLAS; 0 leaves its default")
    parser.add_argument(
        "--one", nargs=3, metavar=("SIDE", "KIND", "OUTPUT"), help=argparse.SUPPRESS
    )
    flags = parser.parse_args()
    if importlib.util.find_spec("cortex_mae") is None:
        sys.exit(
            "Install the reference's functions with 'pip install --no-deps cortex_mae==0.1.1'."
        )
    if flags.one:
        measure(*flags.one, flags.frames, flags.vertices, flags.tr)
        return
    results = {(side, kind): [] for kind in KINDS for side in SIDES}
    outputs = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in tqdm(range(flags.repeats * len(results)), unit="process"):
            side, kind = list(results)[repeat % len(results)]
            path = Path(folder) / f"{side}-{kind}.npz"
            results[side, kind].append(run_one(side, kind, path, flags))
            outputs[side, kind] = dict(np.load(path))
    threads = f"{flags.threads} BLAS threads" if flags.threads else "BLAS threads by default"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads}, NumPy "
          f"{np.__version__}, SciPy {scipy.__version__}; {flags.frames} x {flags.vertices} frames "
          f"of {flags.tr:g} s, {flags.repeats} repeats")  # fmt: skip
    print(f"{'':16s} {'ours, s':20s} {'theirs, s':22s} ratio  largest difference, in z-scores")
    for kind in KINDS:
        ours, theirs = results["ours", kind], results["theirs", kind]
        mine, other = outputs["ours", kind], outputs["theirs", kind]
        for name, step in (("z-score", "z"), (kind, "resampled")):
            difference = np.abs(mine[step].astype(np.float64) - other[step]).max()
            print_row(name, [r[step][1] for r in ours], [r[step][1] for r in theirs],
                      f"{difference:.1e}")  # fmt: skip
        both = [[r["z"][1] + r["resampled"][1] for r in side] for side in (ours, theirs)]
        first = [[r["z"][0] + r["resampled"][0] for r in side] for side in (ours, theirs)]
        print_row("both", *both)
        print_row("both, first run", *first)
        gigabytes = [max(r["peak"] for r in side) / 1e9 for side in (ours, theirs)]
        print(f"{'peak memory':16s} {gigabytes[0]:.2f} GB{'':13s} {gigabytes[1]:.2f} GB\n")


def print_row(name: str, ours: list[float], theirs: list[float], note: str = "") -> None:
    columns = [
        f"{statistics.median(x):5.2f} ({min(x):.2f} to {max(x):.2f})" for x in (ours, theirs)
    ]
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"{name:16s} {columns[0]:20s} {columns[1]:22s} {ratio:5.1f}  {note}")


def run_one(side: str, kind: str, output: Path, flags: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.preprocessing", f"--frames={flags.frames}"]
    command += [f"--vertices={flags.vertices}", f"--tr={flags.tr}", "--one", side, kind, output]
    settings = dict.fromkeys(THREAD_SETTINGS, str(flags.threads)) if flags.threads else {}
    return json.loads(subprocess.check_output(command, env=os.environ | settings))


def measure(side: str, kind: str, output: str, frames: int, vertices: int, tr: float) -> None:
    """Prints seconds of both steps, the first and the second time, and the peak memory in bytes."""
    if side == "ours":
        zscore, resample = preprocess.zscore, resampling.resample
    else:
        nisc = load_reference()
        zscore, resample = nisc.scale, nisc.resample_timeseries
    x = np.random.default_rng(0).standard_normal((frames, vertices), np.float32)
    x *= 100
    x += 10_000
    seconds = {"z": [], "resampled": []}
    for _ in range(2):
        begin = time.perf_counter()
        z = zscore(x)[0]
        middle = time.perf_counter()
        y = resample(z, tr, NEW_TR, kind)
        seconds["z"].append(middle - begin)
        seconds["resampled"].append(time.perf_counter() - middle)
        z = z[:, :COMPARED].copy()
        del y
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    # The same z-scores on both sides, so that only resampling shows in what is compared.
    same = preprocess.zscore(x[:, :COMPARED])[0]
    np.savez(output, z=z, resampled=resample(same, tr, NEW_TR, kind))
    print(json.dumps(seconds | {"peak": peak}))


def load_reference() -> types.ModuleType:
    """The module `nisc` alone: its package needs more, and its own import of pycortex is for
    surfaces that are not touched here."""
    sys.modules.setdefault("cortex", types.ModuleType("cortex"))
    folder = importlib.util.find_spec("cortex_mae").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("nisc", Path(folder) / "nisc.py")
    nisc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nisc)
    return nisc


if __name__ == "__main__":
    main()
