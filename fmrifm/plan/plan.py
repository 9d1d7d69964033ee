"""What a training step would take on chips that need not be there.

The step that `pretrain` runs is compiled for them, with the same function, shardings and batch; its
memory is what the compiler says, its messages and memory traffic are read from the program, its
operations counted by formula. The predicted time is the longest of what compute, memory and network
take by themselves at their peaks: no step is faster, so utilisation is bounded by it.
"""

import copy
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.standard_maps import standard_flat_map
from fmrifm.input.sources import parse_sources, union_geometry
from fmrifm.model.flops import count_flops
from fmrifm.plan.compiled_program import CompiledProgram
from fmrifm.plan.feeding import plan_feeding
from fmrifm.trainer.mesh import BATCH_AXES, held_bytes, make_mesh
from fmrifm.trainer.program import Program
from fmrifm.trainer.throughput import Chip, find_chip

Plan = dict[str, Any]


def find_geometry(config: ConfigDict) -> Geometry:
    """That of the training data of a config; of fsLR-32k's standard map where it names none."""
    if config.data.train:
        return union_geometry(parse_sources(config.data.train))
    if not config.model.patch:
        raise InputError("model.patch=0 takes the patches of a store: set data.train.")
    print("No data.train is set: planned for the standard flat map of fsLR-32k.")
    return standard_flat_map("fsLR-32k").geometry


def make_plan(
    config: ConfigDict, geometry: Geometry, devices: Sequence[jax.Device], topology: str
) -> Plan:
    """Compiles the training step of a config for devices.

    Returns:
      What `plan --json` holds, see docs/scaling.md. Bytes of memory are those of a chip; operations
      are of a clip; times are of a step.
    """
    program = Program(config, geometry, devices)
    chip = find_chip(program.mesh.devices.flat[0])
    begin = time.perf_counter()
    memory, text = _compile(program)
    compile_seconds = time.perf_counter() - begin
    if text and chip and chip.memory:
        memory["limit"] = chip.memory
    learned = program.learned(program.shapes.params)
    plan = {
        "topology": topology,
        "chips": program.mesh.size,
        "device": program.mesh.devices.flat[0].device_kind,
        "mesh": dict(program.mesh.shape),
        "attention": program.model.how.form,
        "remat": program.options.remat,
        "params": sum(x.size for x in jax.tree.leaves(learned)),
        "batch_size": config.batch_size,
        "batch_per_chip": config.batch_size / _rows(program.mesh),
        "accumulation": config.optim.accumulation,
        "state_bytes": {
            "params": held_bytes(program.shapes.params, program.shardings.params),
            "optimizer": held_bytes(program.shapes.opt_state, program.shardings.opt_state),
        },
        "hbm_bytes": memory,
        "fits": bool(text) and (memory["limit"] is None or memory["peak"] <= memory["limit"]),
        **_operations(program, chip),
    }
    plan |= _times(plan, program, chip, text, devices)
    return plan | {"compile_seconds": compile_seconds}


def with_batch(
    config: ConfigDict, devices: Sequence[jax.Device], per_chip: int
) -> tuple[ConfigDict, str]:
    """The config with so many clips for each chip, or a batch that divides; and what changed."""
    if per_chip < 0 or config.optim.accumulation < 1:
        raise InputError("Clips a chip and optim.accumulation must be above zero.")
    config, rows = copy.deepcopy(config), _rows(make_mesh(config.mesh, devices))
    if per_chip:
        config.batch_size = per_chip * rows
        return config, ""
    asked, parts = config.batch_size, rows * config.optim.accumulation
    config.batch_size = -(-asked // parts) * parts
    if config.batch_size == asked:
        return config, ""
    return config, (
        f"batch_size={asked} does not divide into {parts} parts: planned with {config.batch_size}."
    )


def _rows(mesh: Mesh) -> int:
    """Over how many chips, or groups of them, the batch is split."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def _compile(program: Program) -> tuple[dict[str, float | None], str]:
    """Memory of a chip in bytes, and the program; "" where it does not fit."""
    lowered = program.lower_train_step()
    with program.scope():
        with tempfile.TemporaryDirectory() as directory:
            try:
                compiled = lowered.compile({"xla_dump_to": directory, "xla_dump_hlo_as_text": True})
            except jax.errors.JaxRuntimeError as error:
                return _memory_from(str(error), error), ""
            # Of some programs for TPU jaxlib 0.10.2 fails to give the text; what comes out of a
            # compilation cache leaves no file.
            files = list(Path(directory).glob("*train_step*after_optimizations.txt"))
            text = files[0].read_text() if files else compiled.as_text()
    found = compiled.memory_analysis()
    arguments, temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes
    peak = found.peak_memory_in_bytes
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        # That of CPUs leaves temporaries out.
        "peak": peak if peak >= temporaries else arguments + temporaries,
        "limit": None,
    }, text


def _memory_from(message: str, error: Exception) -> dict[str, float | None]:
    """What the compiler says is wanted, where that is more than there is."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower():
        raise error
    found = re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", message)
    sizes = [float(value) * units[unit] for value, unit in found[:2]]
    if len(sizes) < 2:
        raise error
    return {"arguments": None, "temporaries": None, "peak": max(sizes), "limit": min(sizes)}


def _operations(program: Program, chip: Chip | None) -> Plan:
    """Operations of a clip: by formula, and as XLA counts them in a program without loops."""
    form, unit = program.model.how.form, chip.matrix_unit if chip else 1
    n_patches = program.task.objective.geometry.n_patches
    found = count_flops(program.options, n_patches, form, unit)
    config = copy.deepcopy(program.config)
    config.mesh.update({axis: 1 for axis in config.mesh})
    config.batch_size = config.optim.accumulation = 1
    config.attention = "xla"  # a kernel's operations cannot be counted
    config.optim.name = "adamw"  # Muon's products belong to a step, whatever its clips
    plain = Program(config, program.geometry, jax.devices("cpu")[:1], unroll=True)
    cost = plain.lower_train_step().cost_analysis()
    return {"flops_per_clip": found._asdict(), "xla_flops": cost["flops"]}


def _times(plan: Plan, program: Program, chip: Chip | None, text: str, devices) -> Plan:
    """Messages, memory traffic and the times that these and the operations take."""
    nothing = {
        "hbm_traffic_bytes": None,
        "collectives": [],
        "step_seconds": dict.fromkeys(("compute", "memory", "network", "predicted")),
        "mfu_bound": None,
        "clips_per_second": None,
        "host_bytes_per_second": None,
        "feeding": None,
    }
    if not text:
        return nothing
    step = CompiledProgram(text)
    collectives = step.collectives(program.mesh.shape)
    told = {
        "hbm_traffic_bytes": step.traffic(),
        "collectives": [
            {"op": c.op, "axis": c.axis, "bytes": c.bytes, "count": c.count} for c in collectives
        ],
    }
    if chip is None or not chip.bandwidth:
        return nothing | told
    clips, chips = plan["batch_size"], plan["chips"]
    seconds = {
        "compute": plan["flops_per_clip"]["with_padding"] * clips / chips / chip.flops,
        "memory": told["hbm_traffic_bytes"] / chip.bandwidth,
        "network": sum(
            c.sent / (chip.outer_network if "dcn_data" in c.axis else chip.network)
            for c in collectives
        ),
    }
    longest = max(seconds.values())
    hosts = len({device.process_index for device in devices})
    batch = program.batch_shapes()
    clip_bytes = sum(np.prod(x.shape[1:]) * np.dtype(x.dtype).itemsize for x in batch.values())
    frames = batch["bold"].shape[1]
    total = plan["flops_per_clip"]["total"]
    return told | {
        "step_seconds": seconds | {"predicted": longest},
        "mfu_bound": total * clips / (longest * chips * chip.flops),
        "clips_per_second": clips / longest,
        "host_bytes_per_second": float(clip_bytes * clips / longest / hosts),
        "feeding": plan_feeding(clips / longest, float(clip_bytes), frames, hosts, chips),
    }
