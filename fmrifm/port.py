"""Converts models between our form and the published one.

    python -m fmrifm.port --input=checkpoint-last.pth --output=models/flat --geometry=STORE
    python -m fmrifm.port --input=cortex_mae_flat --output=models/flat
    python -m fmrifm.port --input=runs/b/checkpoints/5000 --output=models/b_5000
    python -m fmrifm.port --input=runs/b --output=published/model.safetensors

An output that ends in .safetensors is of the published form, any other is a model directory. The
input is whatever `fmrifm.from_pretrained` takes, or a checkpoint of a run.
"""

from absl import flags

from data_tools.errors import kind_errors
from fmrifm.command_line import run

INPUT = flags.DEFINE_string(
    "input",
    None,
    "A model directory, workdir or checkpoint (paths or URLs), a .pth or .safetensors file, a "
    "registered name or a hub id.",
)
OUTPUT = flags.DEFINE_string("output", None, "A model directory, or a .safetensors file.")
GEOMETRY = flags.DEFINE_string(
    "geometry",
    None,
    "Where the input has none: geometry.npz, a store or model directory, or cortex_mae.",
)
NUM_HEADS = flags.DEFINE_integer("num_heads", None, "Of timm weights, which do not tell it.")


def main(argv: list[str]) -> None:
    from fmrifm.runs.checkpoint import quiet
    from fmrifm.runs.port_model import describe, port

    quiet()
    with kind_errors():
        files = port(INPUT.value, OUTPUT.value, GEOMETRY.value, NUM_HEADS.value)
        print(f"{INPUT.value}: {describe(files)}")
        if OUTPUT.value.endswith(".safetensors"):
            print("This form has no mask of the cortex: keep the model directory for that.")
        print(f"The model is in {OUTPUT.value}.")


if __name__ == "__main__":
    run(main, "input", "output")
