"""Which decoder? Attention over all tokens, cross-attention to visible ones, or to registers.

    python -m fmrifm.sweep --config=configs/sweeps/decoder.py:vit_b --workdir=DIR \\
        --config.data.train=STORE --config.data.eval=test=STORE

Three seeds each. `:simulated` as in base.py.
"""

from configs.sweeps.base import get_config  # noqa: F401
from fmrifm.sweep.combine import Point, product, values

REGISTERS = 16  # of the encoder, which are all that the decoder `crossreg` sees


def get_sweep() -> list[Point]:
    decoders = [
        {"name": "attn", "model.decoding": "attn"},
        {"name": "cross", "model.decoding": "cross"},
        {"name": "crossreg", "model.decoding": "crossreg", "model.reg_tokens": REGISTERS},
    ]
    return product(decoders, values("seed", 0, 1, 2))
