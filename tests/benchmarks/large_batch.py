"""Held-out loss by optimizer, batch and learning rate, on one device, for docs/scaling.md.

    python -m tests.benchmarks.large_batch --output=loss.csv

Every point trains a tiny model on as many clips of simulated networks on a toy map: four smooth
maps, the same in all subjects, with slow time courses, in noise. That says how rates carry over,
not how well brains are learned.
"""

import argparse
import csv
import itertools
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from scipy.ndimage import gaussian_filter

from data_tools.store.writer import StoreWriter
from fmrifm.input.data import open_data
from fmrifm.trainer.evaluate import Evaluator
from fmrifm.trainer.mesh import to_devices
from fmrifm.trainer.program import Program
from tests.conftest import make_toy_config, toy_geometry

CLIPS = 19_200
RATES = (3.5e-4, 1e-3, 2.8e-3, 8e-3, 2.3e-2)
BATCHES = (8, 64)


def write_networks(path: Path, subjects: int, seed: int, frames: int = 300) -> Path:
    """A store of one run a subject; noise has a fifth of the variance."""
    geometry, rng = toy_geometry(), np.random.default_rng(seed)
    maps_4xHxW = np.random.default_rng(0).normal(size=(4, *geometry.mask.shape))
    maps_4xHxW = gaussian_filter(maps_4xHxW, (0, 4, 4)) * geometry.mask
    maps_4xHxW /= maps_4xHxW.std((1, 2), keepdims=True)
    with StoreWriter(path, geometry, tr=1.0, preprocessing={}, provenance={}) as writer:
        for subject in range(subjects):
            courses_Tx4 = gaussian_filter(rng.normal(size=(frames, 4)), (2, 0))
            signal = np.tensordot(courses_Tx4, maps_4xHxW, 1)
            noise = rng.normal(size=signal.shape)
            bold = (signal / signal.std() + 0.5 * noise) * geometry.mask
            bold = geometry.to_patches(bold).astype(np.float16)
            writer.add(f"sub-{subject}", bold, dataset="toy", subject=str(subject), task="rest")
        writer.finish()
    return path


def held_out_losses(stores, name: str, batch: int, lr: float, seed: int) -> list[float]:
    """After a quarter, half and all of the training."""
    steps = CLIPS // batch
    config = make_toy_config(
        stores, seed=seed, batch_size=batch, total_steps=steps, optim__name=name, optim__lr=lr,
        model__head_init_scale=0.0, model__t_patch=16, model__depth=3,
    )  # fmt: skip
    data = open_data(config)
    program = Program(config, data.geometry, jax.devices()[:1])
    batches, losses = program.train_batches(data), []
    evaluate = Evaluator(program, data.evals, Path(tempfile.gettempdir()))
    with program.scope():
        state = program.initial_state(seed)
        for step in range(steps):
            rows = to_devices(batches[step], program.batch_sharding)
            state, _ = program.train_step(state, rows)
            if step + 1 in (steps // 4, steps // 2, steps):
                losses.append(evaluate(state.params, step)["eval/held/loss"])
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, open(args.output, "w", newline="") as file:
        stores = {
            "train": write_networks(Path(root) / "train", 12, seed=1),
            "eval": write_networks(Path(root) / "eval", 4, seed=2),
        }
        table = csv.writer(file)
        table.writerow(["optimizer", "batch", "lr", "seed", "quarter", "half", "end"])
        points = itertools.product(range(args.seeds), BATCHES[::-1], ("adamw", "muon"), RATES)
        for seed, batch, name, lr in points:
            losses = held_out_losses(stores, name, batch, lr, seed)
            table.writerow([name, batch, lr, seed, *np.round(losses, 4)])
            file.flush()
            print(name, batch, lr, seed, np.round(losses, 4), file=sys.stderr)


if __name__ == "__main__":
    main()
