"""Clips per second from an object store, by latency and by requests under way.

    python -m tests.benchmarks.remote [--latencies 0 0.05 0.2] [--requests 1 8 32] [--repeats=3]

moto's S3 server runs in a process of its own on loopback and answers each range so many seconds
late. `ClipReader` reads batches of 32 clips of 16 frames of the standard map (3 MB a clip, none of
them overlap), all settings turn about; then once with a cache, empty and filled. Prints medians and
spread. The server shares the machine's cores, and so bounds what many requests can give.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from data_tools.files.block_cache import BlockCache
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.store.writer import StoreWriter
from fmrifm.input.clips import ListSampler, list_clips
from fmrifm.input.pipeline import ClipReader, TrainBatches
from fmrifm.input.sources import parse_sources
from tests.data_tools.files.object_store import object_store, upload

FRAMES, BATCH, RUN_FRAMES, RUNS = 16, 32, 32, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.0, 0.05, 0.2])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", help="(of the server process) the store")
    flags = parser.parse_args()
    if flags.serve:
        serve(Path(flags.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        store, clip_bytes = make_store(Path(folder))
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, batches of "
              f"{BATCH} clips of {clip_bytes / 1e6:.1f} MB, {flags.repeats} repeats")  # fmt: skip
        settings = list(itertools.product(flags.latencies, flags.requests))
        rates = {setting: [] for setting in settings}
        with Server(store) as set_latency:
            for repeat in range(flags.repeats):
                for latency, requests in settings:
                    set_latency(latency)
                    batches = batches_of("s3://bucket/store", requests)
                    rates[latency, requests].append(rate(batches, repeat))
            for (latency, requests), values in rates.items():
                say(f"{1e3 * latency:4.0f} ms late, {requests:3d} requests", values, clip_bytes)
            set_latency(flags.latencies[-1])
            for name in ("empty", "filled"):
                cache = BlockCache(Path(folder) / "cache", 10**9)
                values = [rate(batches_of("s3://bucket/store", 32, cache), 0)]
                cache.settle()
                say(f"{1e3 * flags.latencies[-1]:4.0f} ms late, {name} cache", values, clip_bytes)
        values = [rate(batches_of(str(store), 1), repeat) for repeat in range(flags.repeats)]
        say("memory map", values, clip_bytes)


def say(name: str, rates: list[float], clip_bytes: float) -> None:
    median = statistics.median(rates)
    print(f"{name:28s} {median:7.1f} clips/s, {median * clip_bytes / 1e6:7.0f} MB/s  "
          f"({min(rates):.1f} to {max(rates):.1f})")  # fmt: skip


def make_store(folder: Path) -> tuple[Path, int]:
    """A store of noise, and the bytes of a clip."""
    geometry = standard_flat_map("fsaverage5").geometry
    rng = np.random.default_rng(0)
    path = folder / "store"
    settings = {"tr": 1.0, "preprocessing": {}, "provenance": {}}
    # A shard for each run, as moto reads a whole file to answer a range of it.
    with StoreWriter(path, geometry, **settings, shard_bytes=1) as writer:
        for i in range(RUNS):
            pixels = rng.standard_normal((RUN_FRAMES, geometry.n_pixels), np.float32)
            writer.add(f"run-{i}", geometry.pixels_to_patches(pixels.astype(np.float16)))
        writer.finish()
    return path, 2 * FRAMES * geometry.n_patches * geometry.patch_dim


def batches_of(text: str, requests: int, cache: BlockCache | None = None) -> TrainBatches:
    sources = parse_sources(text, cache)
    reader = ClipReader(sources, sources[0].store.geometry, FRAMES, requests=requests)
    return TrainBatches(
        reader, ListSampler(sources, list_clips(sources, FRAMES), 0), BATCH, np.arange(BATCH), 10**6
    )


def rate(batches: TrainBatches, step: int) -> float:
    begin = time.perf_counter()
    batches[step]
    return BATCH / (time.perf_counter() - begin)


class Server:
    """The object store in a process of its own; gives what sets its latency."""

    def __init__(self, store: Path):
        command = [sys.executable, "-m", "tests.benchmarks.remote", f"--serve={store}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        for setting in self._process.stdout.readline().split():
            name, _, value = setting.partition("=")
            os.environ[name] = value
        return self._set_latency

    def _set_latency(self, seconds: float) -> None:
        print(seconds, file=self._process.stdin, flush=True)
        self._process.stdout.readline()

    def __exit__(self, *error):
        self._process.kill()


def serve(store: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as gate:
        upload(store, "store")
        print(*(f"{k}={v}" for k, v in os.environ.items() if k.startswith("AWS_")), flush=True)
        for line in sys.stdin:
            gate.latency = float(line)
            print("set", flush=True)


if __name__ == "__main__":
    main()
