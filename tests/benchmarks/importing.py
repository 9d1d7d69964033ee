"""How fast published data become stores, and how much memory that takes.

    python -m tests.benchmarks.importing [--runs=8 --frames=1200 --jobs 1 2]

Makes tar shards of both published forms and an Arrow folder of runs with 77,763 columns, the width
of the published flat map, and imports each, every time in processes of their own. MB/s count the
bytes of the files read. Memory is the peak of the process with the largest, that of the libraries
included; files that are mapped count while the system keeps them. Prints medians and spread.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_tools.spaces.geometry import Geometry
from tests.data_tools.published.arrow_folders import write_arrow
from tests.data_tools.published.published_shards import mask_npz, npy, write_shard

WIDTH, SHAPE = 77_763, (224, 560)
KINDS = ("older", "newer", "arrow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1200)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", help="where to work; a disk, not memory")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        measure(*flags.one)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, NumPy "
          f"{np.__version__}; {flags.runs} runs of {flags.frames} frames in 4 files, "
          f"{flags.repeats} repeats")  # fmt: skip
    with tempfile.TemporaryDirectory(dir=flags.directory) as folder:
        folder = Path(folder)
        geometry = write_inputs(folder, flags.runs, flags.frames)
        size = {kind: sum(p.stat().st_size for p in (folder / kind).iterdir()) for kind in KINDS}
        for jobs in flags.jobs:
            for kind in KINDS:
                results = [run_one(kind, jobs, folder, geometry) for _ in range(flags.repeats)]
                speed = [size[kind] / 1e6 / result["seconds"] for result in results]
                memory = [result["peak"] / 1e9 for result in results]
                print(f"{kind:6s} {jobs} processes  {statistics.median(speed):5.0f} MB/s "
                      f"({min(speed):.0f} to {max(speed):.0f})  {max(memory):.2f} GB")  # fmt: skip


def write_inputs(folder: Path, n_runs: int, n_frames: int) -> Path:
    """Four files of each kind; returns the geometry's."""
    # Two discs, one a hemisphere: about as many patches as the published map has.
    rows, columns = np.indices(SHAPE)
    away = np.minimum(*(np.hypot(rows - 112, columns - x) for x in (140, 420)))
    mask = np.zeros(rows.size, bool)
    mask[np.argsort(away.reshape(-1), kind="stable")[:WIDTH]] = True
    mask = mask.reshape(SHAPE)
    path = folder / "geometry.npz"
    path.write_bytes(Geometry("flat", mask, (16, 16)).to_bytes())
    packed, scale = mask_npz(mask), np.ones((1, WIDTH), np.float32)
    for kind in KINDS:
        (folder / kind).mkdir()
    for file in range(4):
        keys = [f"sub-{i:03d}" for i in range(file, n_runs, 4)]
        older, newer, rows = {}, {}, []
        for key in keys:
            rng = np.random.default_rng(sum(key.encode()))
            bold = rng.standard_normal((n_frames, WIDTH), np.float32).astype(np.float16)
            meta = json.dumps({"sub": key[4:], "n_frames": n_frames}).encode()
            both = {"meta.json": meta, "bold.npy": npy(bold)}
            older[key] = both | {"events.json": b"[]", "mask.npz": packed}
            newer[key] = both | {"mean.npy": npy(scale), "std.npy": npy(scale)}
            rows.append({"sub": key[4:], "tr": 1.0, "bold": bold, "mean": scale, "std": scale})
        write_shard(folder / "older" / f"s{file}.tar", older)
        write_shard(folder / "newer" / f"s{file}.tar", newer)
        write_arrow(folder / "arrow" / f"s{file}.arrow", rows, {"sub": pa.string()}, batch=1)
    return path


def run_one(kind: str, jobs: int, folder: Path, geometry: Path) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.importing", "--one"]
    command += [kind, str(jobs), str(folder), str(geometry)]
    return json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).splitlines()[-1])


def measure(kind: str, jobs: str, folder: str, geometry: str) -> None:
    """Prints the seconds of an import and the peak memory in bytes."""
    from data_tools import import_arrow, import_webdataset

    output = Path(folder) / "store"
    arguments = [f"--output={output}", f"--jobs={jobs}", f"--geometry={geometry}"]
    begin = time.perf_counter()
    if kind == "arrow":
        import_arrow.main([f"--input={folder}/arrow", *arguments])
    else:
        import_webdataset.main([f"--input={folder}/{kind}/*.tar", *arguments])
    seconds = time.perf_counter() - begin
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    shutil.rmtree(output)
    print(json.dumps({"seconds": seconds, "peak": peak * 1024}))


if __name__ == "__main__":
    main()
