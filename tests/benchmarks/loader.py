"""Clips per second of the loader, beside the same clips decoded from a tar of .npy members.

    python -m tests.benchmarks.loader [--runs=8] [--clips=2000] [--repeats=5]

Both sides read the same random clips of 16 frames on one core from page cache, in one process, turn
about. Ours copies them from the store into whole batches (`ClipReader`), once more in a first epoch
in which each run is compared with its checksum when it is first read; the other side finds the
run's member in an uncompressed tar (its index read before), decodes the array and cuts the clip
out. A second figure of the tar side normalises each frame in float32 on the host, as the usual
loaders do. Prints medians and spread; times depend on the machine.
"""

import argparse
import io
import os
import platform
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.store import checksums
from data_tools.store.writer import StoreWriter
from fmrifm.input.clips import RandomSampler
from fmrifm.input.pipeline import ClipReader, TrainBatches
from fmrifm.input.sources import parse_sources

FRAMES, BATCH, RUN_FRAMES = 16, 32, 864


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="runs of 864 frames in the store")
    parser.add_argument("--clips", type=int, default=2000, help="clips a repeat of our side")
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        store, tar = make_inputs(Path(folder), flags.runs)
        sources = parse_sources(str(store))
        geometry = sources[0].store.geometry
        reader = ClipReader(sources, geometry, FRAMES)
        sampler = RandomSampler(sources, FRAMES, seed=0)
        batches = TrainBatches(reader, sampler, BATCH, np.arange(BATCH), 10**6)
        steps = max(1, flags.clips // BATCH)
        epoch = -(-flags.runs * RUN_FRAMES // (FRAMES * BATCH))
        sides = {
            "store": lambda r: ours(batches, r * steps, steps),
            "store, first epoch": lambda r: first_epoch(batches, r * epoch, epoch),
            "tar of .npy": lambda r: theirs(tar, sources, sampler, r, False),
            "tar of .npy, normalised on the host": lambda r: theirs(tar, sources, sampler, r, True),
        }
        for side in sides.values():
            side(0)  # fills the page cache
        rates = {name: [] for name in sides}
        for repeat in range(1, flags.repeats + 1):
            for name, side in sides.items():
                rates[name].append(side(repeat))
    print(f"{platform.processor() or platform.machine()}, one core, {flags.runs} runs of "
          f"{RUN_FRAMES} frames, clips of {FRAMES} frames x {geometry.n_patches} x "
          f"{geometry.patch_dim}, {flags.repeats} repeats")  # fmt: skip
    first = statistics.median(rates["store"])
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:38s} {median:8.0f} clips/s  ({min(values):.0f} to {max(values):.0f}), "
              f"{first / median:.1f} x slower than ours")  # fmt: skip


def make_inputs(folder: Path, runs: int) -> tuple[Path, Path]:
    """The same noise as a store and as a tar with one (T, pixels) member a run."""
    geometry = standard_flat_map("fsaverage5").geometry
    rng = np.random.default_rng(0)
    tar_path = folder / "runs.tar"
    with (
        StoreWriter(folder / "store", geometry, tr=1.0, preprocessing={}, provenance={}) as writer,
        tarfile.open(tar_path, "w") as tar,
    ):
        for i in range(runs):
            pixels = rng.standard_normal((RUN_FRAMES, geometry.n_pixels), np.float32)
            pixels = pixels.astype(np.float16)
            writer.add(f"run-{i:02d}", geometry.pixels_to_patches(pixels))
            buffer = io.BytesIO()
            np.save(buffer, pixels)
            info = tarfile.TarInfo(f"run-{i:02d}.bold.npy")
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)
        writer.finish()
    return folder / "store", tar_path


def ours(batches: TrainBatches, first: int, steps: int) -> float:
    begin = time.perf_counter()
    for step in range(first, first + steps):
        batches[step]
    return steps * BATCH / (time.perf_counter() - begin)


def first_epoch(batches: TrainBatches, first: int, steps: int) -> float:
    checksums._CHECKED.clear()  # as in a process that has just begun
    return ours(batches, first, steps)


def theirs(path: Path, sources, sampler, repeat: int, normalise: bool, clips: int = 64) -> float:
    drawn = sampler.draw(repeat, clips)
    mask = sources[0].store.geometry.mask
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar.getmembers()}
        begin = time.perf_counter()
        for run, start in zip(drawn.run, drawn.start, strict=True):
            member = members[f"{sources[0].store.runs[run]['key']}.bold.npy"]
            pixels = np.load(io.BytesIO(tar.extractfile(member).read()))[start : start + FRAMES]
            if normalise:
                pixels = pixels.astype(np.float32)
                pixels = (pixels - pixels.mean(1, keepdims=True)) / (pixels.std(1, keepdims=True))
            images = np.zeros((FRAMES, *mask.shape), pixels.dtype)
            images[:, mask] = pixels
    return clips / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
