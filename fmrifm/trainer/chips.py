"""What chips can do: the one table of peaks.

Sources: TPU figures are those of Google's pages on each (docs.cloud.google.com/tpu/docs/v4, v5e,
v5p, v6e), one direction of links; usable memory is what the TPU compiler states; the share of the
host's network of v4, which is not published, is taken as that of v5p. NVIDIA figures are those of
the data sheets, without sparsity.
"""

import dataclasses

import jax


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
