"""How long steps take, and what that comes to: rates of clips and tokens, utilisation, memory."""

import array
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from fmrifm.model.flops import clip_tokens, count_flops
from fmrifm.runs.goodput import Account
from fmrifm.trainer.program import Program


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one jax device.

    Attributes:
      flops: bfloat16 operations a second.
      memory: usable bytes of main memory (HBM); 0 where we do not plan for it.
      bandwidth: bytes of main memory a second.
      network: bytes a second that it can send to its neighbours over all links at once; the same
        again can come in.
      outer_network: bytes a second that it can send to other slices, its share of the host's.
      matrix_unit: side of the matrix unit, to which both inner dimensions of a product are padded.
    """

    flops: float
    memory: int = 0
    bandwidth: float = 0.0
    network: float = 0.0
    outer_network: float = 0.0
    matrix_unit: int = 1


_GB = 2**30
# By the start of `device_kind`, the first that fits. One device of v4 and v5p is a chip.
CHIPS = {
    "TPU v4": Chip(275e12, int(30.75 * _GB), 1228e9, 300e9, 6.25e9, 128),
    "TPU v5 lite": Chip(197e12, int(15.75 * _GB), 819e9, 200e9, 3.125e9, 128),
    "TPU v5": Chip(459e12, int(95.73 * _GB), 2765e9, 600e9, 6.25e9, 128),
    "TPU v6 lite": Chip(918e12, int(31.24 * _GB), 1638e9, 400e9, 12.5e9, 256),
    "NVIDIA A100": Chip(312e12),
    "NVIDIA H100": Chip(989e12),
    "NVIDIA H200": Chip(989e12),
}


def find_chip(device: jax.Device) -> Chip | None:
    """What is known of a device; None where it is not in the table."""
    kind = device.device_kind
    return next((chip for name, chip in CHIPS.items() if kind.startswith(name)), None)


def step_work(program: Program) -> dict[str, float]:
    """The work of a training step of a program, see `amounts`."""
    clips, patches = program.config.batch_size, program.cut.n_patches
    seen, decoded = clip_tokens(program.options, patches)
    flops = count_flops(program.options, patches).total
    chip = find_chip(program.mesh.devices.flat[0])
    return amounts(
        clips, clips * seen, clips * decoded, clips * flops, program.mesh.size, chip and chip.flops
    )


def amounts(
    clips: int,
    encoder_tokens: int,
    decoder_tokens: int,
    flops: float,
    chips: int,
    peak_flops: float | None,
) -> dict[str, float]:
    """perf/ metric -> its amount in one step; the metric is this divided by the step's seconds.

    Args:
      clips, encoder_tokens, decoder_tokens, flops: of the global batch, nothing twice.
      chips: that share the step.
      peak_flops: of a chip, a second; None where it is not known.
    """
    work = {
        "perf/clips_per_second": clips,
        "perf/clips_per_second_per_chip": clips / chips,
        "perf/encoder_tokens_per_second": encoder_tokens,
        "perf/decoder_tokens_per_second": decoder_tokens,
    }
    return work | ({"perf/mfu": flops / (chips * peak_flops)} if peak_flops else {})


class Throughput:
    """Times steps, each from the end of the one before to its own.

    A thread waits for each step, since the loop is busy: it may be waiting for data when one ends.
    The loop itself waits for the last step but one, which keeps it from running far ahead.
    """

    def __init__(self, work: dict[str, float], account: Account):
        self._work, self._account = work, account
        self._thread = ThreadPoolExecutor(1)
        self._running: Future | None = None  # gives the time at which the newest step ended
        self._times: list[float] = []  # of the steps since the last `read`
        self._waits: list[float] = []  # the part of each that devices waited for its batch
        self._all_times = array.array("d")  # of this start
        self._asked = self._ready = self._wait = 0.0
        self.restart()

    def restart(self) -> None:
        """The next step begins now: what came in between was not part of a step."""
        self._last_end = self._account.clock()

    def next_batch(self, batches: Iterator) -> dict[str, jax.Array]:
        self._asked = self._account.clock()
        batch = next(batches)
        self._ready = self._account.clock()
        return batch

    def follow(self, loss: jax.Array) -> None:
        """Begins to time the step that gives this loss; returns when the one before has ended."""
        before, self._running = self._running, self._thread.submit(self._end_of, loss)
        if before:
            self._ended(before.result())
        # The devices stood still from the end of the step before until its batch was there.
        self._wait = max(0.0, self._ready - max(self._asked, self._last_end))
        self._account.move(self._wait, "data_wait")

    def drain(self) -> None:
        """Returns when the newest step has ended."""
        if self._running:
            self._ended(self._running.result())
            self._running = None

    def _end_of(self, loss: jax.Array) -> float:
        jax.block_until_ready(loss)  # not a read
        return self._account.clock()

    def _ended(self, end: float) -> None:
        self._times.append(end - self._last_end)
        self._all_times.append(end - self._last_end)
        self._waits.append(self._wait)
        self._last_end = end

    def read(self) -> dict[str, float]:
        """The perf/ metrics of the steps that have ended since the last call."""
        waited = sum(self._waits) / max(sum(self._times), 1e-9)
        values = {**self._figures(self._times), "perf/data_wait_fraction": waited}
        self._times, self._waits = [], []
        return values

    def read_all(self) -> dict[str, float]:
        """The same of all steps of this start, without the wait for data; {} if there were none."""
        return self._figures(self._all_times) if self._all_times else {}

    def _figures(self, times) -> dict[str, float]:
        step_time = max(float(np.mean(times)), 1e-9)
        values = {"perf/step_time": step_time}
        for percent, value in zip((50, 90, 99), np.percentile(times, (50, 90, 99)), strict=True):
            values[f"perf/step_time_p{percent}"] = float(value)
        rates = {name: amount / step_time for name, amount in self._work.items()}
        return {**values, **rates, **_memory()}

    def close(self) -> None:
        self._thread.shutdown()


def _memory() -> dict[str, float]:
    """The most memory that a device of this process has held, where the backend tells."""
    told = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats]
    return {"perf/hbm_peak_bytes": max(peaks)} if peaks else {}
