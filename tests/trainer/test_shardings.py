"""How ViT-B lies on each layout: every parameter's axes, and how much each device holds.

After a change that is meant, write the list anew: python -m tests.trainer.test_shardings
"""

import json
from pathlib import Path

import jax
import pytest

from data_tools.spaces.standard_maps import standard_flat_map
from fmrifm.trainer.mesh import sharded_share
from fmrifm.trainer.program import Program
from tests.conftest import load_config

GOLDEN = Path(__file__).parent / "shardings.json"
LAYOUTS = {  # mesh, and the least share of the state that each device does not hold
    "data8": ({"data": 8}, 0),
    "fsdp8": ({"fsdp": 8}, 0.87),
    "tensor4": ({"data": 2, "tensor": 4}, 0.73),
    "fsdp4_tensor2": ({"fsdp": 4, "tensor": 2}, 0.86),
}


def make_program(layout, **optim):
    config = load_config(arg="vit_b")
    config.optim.update(optim)
    config.mesh.update({"data": 1} | LAYOUTS[layout][0])
    return Program(config, standard_flat_map("fsLR-32k").geometry, jax.devices()[:8])


def axes_of(program) -> dict[str, str]:
    """{parameter: the mesh axis of each of its dimensions}, of those that are split."""

    def axes(spec) -> list[str]:
        return [axis if axis and program.mesh.shape[axis] > 1 else "-" for axis in spec]

    leaves, _ = jax.tree_util.tree_flatten_with_path(program.shardings.params)
    named = {"/".join(key.key for key in path): axes(s.spec) for path, s in leaves}
    return {name: " ".join(spec) for name, spec in named.items() if set(spec) > {"-"}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_lies_where_the_list_says(layout):
    program = make_program(layout)
    assert axes_of(program) == json.loads(GOLDEN.read_text())[layout]
    assert sharded_share(program.shapes, program.shardings) >= LAYOUTS[layout][1]
    # Moments of the optimizer lie as their parameters do.
    params = jax.tree.leaves(program.shardings.params)
    moments = [s for s in jax.tree.leaves(program.shardings.opt_state) if s.spec]
    assert len(moments) == 2 * sum(1 for s in params if s.spec)


if __name__ == "__main__":
    found = {layout: axes_of(make_program(layout)) for layout in LAYOUTS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
