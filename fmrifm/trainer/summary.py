"""What a run says of itself: a line when it starts, one screen when it ends."""

import os
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from fmrifm.runs.goodput import LOSSES, STEPS, Account
from fmrifm.trainer.mesh import sharded_share
from fmrifm.trainer.program import Program


def describe_start(program: Program, first_step: int, workdir: str | os.PathLike) -> str:
    """What trains where, from which step on."""
    options, mesh = program.options, program.mesh
    size = sum(np.prod(x.shape) for x in jax.tree.leaves(program.shapes.params))
    share = sharded_share(program.shapes, program.shardings)
    return (
        f"{size / 1e6:.1f} M parameters on {mesh.size} x {jax.devices()[0].device_kind}, mesh "
        f"{dict(mesh.shape)} ({share:.0%} of the state sharded); clips of {options.num_frames} "
        f"frames, {options.visible_count} visible "
        f"{'patches' if options.masking == 'tube' else 'tokens'}; "
        f"{f'from step {first_step}' if first_step else 'from the start'}, outputs in {workdir}"
    )


def summarize(
    steps: tuple[int, int, int],
    batch_size: int,
    account: Account,
    speed: Mapping[str, float],
    shown: Mapping[str, float],
) -> str:
    """The lines of a table.

    Args:
      steps: done before this start, done now, and in the whole run.
      account: of all starts.
      speed: perf/ metrics of the steps of this start; empty where there were none.
      shown: the last train/loss and eval/NAME/loss that this start has logged.
    """
    first, last, total = steps
    seconds, compiled = account.seconds, account.metrics()["perf/compile_seconds"]
    wall = sum(seconds.values())
    since = f", from step {first} on in this start" if first else ""
    rows = [
        ("steps", f"{last:,} of {total:,}{since}"),
        ("clips", f"{last * batch_size:,}"),
        ("wall time", f"{_time(wall)} since the first start ({account.starts} in all)"),
        ("goodput", _part(seconds[STEPS], wall)),
    ]
    rows += [(f"  {c.replace('_', ' ')}", _part(seconds[c], wall)) for c in LOSSES if seconds[c]]
    if speed:
        p50, p90, p99 = (f"{speed[f'perf/step_time_p{p}']:.4g}" for p in (50, 90, 99))
        clips, each = (speed[f"perf/clips_per_second{x}"] for x in ("", "_per_chip"))
        seen, decoded = (speed[f"perf/{x}_tokens_per_second"] for x in ("encoder", "decoder"))
        rows += [
            ("step time", f"median {p50} s, 90 % within {p90} s, 99 % within {p99} s"),
            ("clips a second", f"{clips:,.1f}, {each:,.1f} a chip"),
            ("tokens a second", f"encoder {seen:,.0f}, decoder {decoded:,.0f}"),
            ("compile time", f"{compiled:.1f} s"),
        ]
    if "perf/mfu" in speed:
        rows += [("utilisation (MFU)", f"{speed['perf/mfu'] * 100:.1f} %")]
    if "perf/hbm_peak_bytes" in speed:
        rows += [("memory peak (HBM)", f"{speed['perf/hbm_peak_bytes'] / 2**30:.2f} GiB a chip")]
    rows += describe_losses(shown)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def describe_losses(values: Mapping[str, float]) -> list[tuple[str, str]]:
    """(metric, its value beside its reference lines) of every loss among metrics."""
    rows = []
    for name in (name for name in values if name.endswith("/loss")):
        lines = {kind: values.get(f"{name}_{kind}") for kind in ("zero", "linear")}
        known = ", ".join(f"{kind} {x:.4f}" for kind, x in lines.items() if x is not None)
        rows.append((name, f"{values[name]:.4f}" + (f" ({known})" if known else "")))
    return rows


def _time(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))


def _part(seconds: float, wall: float) -> str:
    return f"{seconds / max(wall, 1e-9) * 100:5.1f} %  {_time(seconds)}"
