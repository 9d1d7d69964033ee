"""Predicts memory, time and messages of a training step on a TPU slice that need not be there.

    python -m fmrifm.plan --config=configs/pretrain.py:vit_b --topology=v5e:4x4 \\
        --batch_per_chip=64 --config.model.remat=dots --json=plan.json

compiles the step of `pretrain` with the TPU compiler (`pip install libtpu`), or for CPU devices
with `--topology=cpu:8`. `--search` finds the largest batch a chip holds, and the fastest settings.
"""

import json
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from data_tools.errors import kind_errors
from data_tools.files.atomic import write_bytes
from fmrifm.command_line import run
from fmrifm.plan.topology import EXAMPLES, open_topology

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file with get_config(arg).")
TOPOLOGY = flags.DEFINE_string("topology", None, f"Chips: {EXAMPLES}.")
SLICES = flags.DEFINE_integer("slices", 1, "So many of them, over the mesh axis dcn_data.")
PER_CHIP = flags.DEFINE_integer("batch_per_chip", 0, "Clips a chip; 0 takes config.batch_size.")
SEARCH = flags.DEFINE_bool("search", False, "Find the largest batch a chip, and the best settings.")
JSON = flags.DEFINE_string("json", None, "Also leave the plan in this file.")


def main(argv: list[str]) -> None:
    from fmrifm.plan.plan import find_geometry, make_plan, with_batch
    from fmrifm.plan.plan_table import describe
    from fmrifm.plan.search import search

    with kind_errors():
        config = CONFIG.value
        devices = open_topology(TOPOLOGY.value, SLICES.value)
        if SLICES.value > 1:
            config.mesh.dcn_data = SLICES.value
        geometry = find_geometry(config)
        if SEARCH.value:
            plan = search(config, geometry, devices, TOPOLOGY.value)
        else:
            config, change = with_batch(config, devices, PER_CHIP.value)
            print(change, end="\n" if change else "")
            plan = make_plan(config, geometry, devices, TOPOLOGY.value)
        print(describe(plan))
        if JSON.value:
            write_bytes(Path(JSON.value), json.dumps(plan, indent=1).encode())
            print(f"The plan is in {JSON.value}.")


if __name__ == "__main__":
    run(main, "config", "topology")
