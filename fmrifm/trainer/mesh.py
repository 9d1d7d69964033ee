"""The device mesh and the one table that lays arrays out on it.

Parameters and activations name their axes by role; RULES says which mesh axis splits which role.
Changing the layout means changing the sizes of the mesh, or a row of this table.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_tools.errors import InputError

# The outermost goes over the network between slices, which is slow; the others stay within one.
AXES = ("dcn_data", "data", "fsdp", "tensor")
BATCH_AXES = ("dcn_data", "data", "fsdp")
RULES = (
    ("batch", BATCH_AXES),
    ("tokens", None),
    ("layers", None),
    ("pixels", None),
    ("embed", "fsdp"),  # of parameters
    ("embed_act", None),  # of activations
    ("heads", "tensor"),
    ("mlp", "tensor"),
)
# What spreads whole matrices, in this order; slices each compute all of them.
MATRIX_AXES = ("fsdp", "tensor", "data")
# Smaller tensors are replicated: sharding them saves no memory and costs a message each.
MIN_SHARDED_SIZE = 2**14


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with AXES over the devices, by default all.

    Args:
      sizes: of the axes, 1 where not given; -1 fills one axis.
      devices: in any order; those near to each other become neighbours.

    Raises:
      InputError: the sizes do not multiply to the number of devices, or do not follow their slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes.get(axis, 1) for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise InputError(f"mesh={dict(sizes)} is no layout: sizes are above zero, one may be -1.")
    if -1 in shape:
        fixed = -math.prod(shape)
        shape[shape.index(-1)] = len(devices) // fixed
    if math.prod(shape) != len(devices):
        raise InputError(
            f"mesh={dict(sizes)} does not fit {len(devices)} devices: choose sizes with that "
            "product."
        )
    # GPUs call a node a slice; theirs may be spanned by any axis.
    is_tpu = devices[0].platform == "tpu"
    slices = len({getattr(d, "slice_index", 0) for d in devices}) if is_tpu else 1
    if slices > 1 and shape[0] != slices:
        raise InputError(f"The devices lie in {slices} slices: set mesh.dcn_data={slices}.")
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *shape[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    types = (AxisType.Auto,) * len(AXES)  # linen's partitioned parameters need Auto axes
    return Mesh(grid, AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the batch over all axes but tensor."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Raises InputError unless every micro-batch divides over the axes of the batch."""
    sizes = [mesh.shape[axis] for axis in BATCH_AXES]
    parts = math.prod(sizes) * accumulation
    if accumulation < 1 or batch_size < 1 or batch_size % parts:
        raise InputError(
            f"batch_size={batch_size} does not divide by {' x '.join(BATCH_AXES)} x accumulation = "
            f"{' x '.join(map(str, sizes))} x {accumulation}: "
            f"choose a multiple of {parts}."
        )


def state_shardings(boxed, mesh: Mesh):
    """Shardings of a tree of shapes boxed with logical axis names, by RULES.

    A tensor below MIN_SHARDED_SIZE, and an axis that its mesh axis does not divide, is replicated.
    """
    specs = nn.logical_to_mesh(nn.get_partition_spec(boxed), RULES)

    def sharding(array, spec):
        if math.prod(array.shape) < MIN_SHARDED_SIZE:
            return replicated(mesh)
        fits = [
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for size, axis in zip(array.shape, spec, strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*fits))

    return jax.tree.map(sharding, nn.unbox(boxed), specs)


def on_whole_matrices(function: Callable, x_NxIxO: jax.Array) -> jax.Array:
    """`function(x)`, computed where each of N matrices lies whole on one device of a slice.

    Products of split matrices would exchange their parts again and again; of replicated ones, every
    device would compute all. Without a mesh in scope it is the function alone.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(x_NxIxO)
    free = PartitionSpec.UNCONSTRAINED
    # One axis after another: XLA makes an all-to-all of each, but would gather all at once.
    ways = [PartitionSpec(MATRIX_AXES[:count], free, free) for count in (1, 2)]
    ways.append(PartitionSpec(MATRIX_AXES, None, None))
    for way in ways:
        x_NxIxO = jax.lax.with_sharding_constraint(x_NxIxO, way)
    x_NxIxO = function(x_NxIxO)
    for way in reversed(ways):
        x_NxIxO = jax.lax.with_sharding_constraint(x_NxIxO, way)
    return x_NxIxO


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This host's rows, ascending, -> global arrays.

    The number of rows of the whole batch is not left to jax to guess: it refuses where hosts share
    some of their rows and not all.
    """
    parts = math.prod(sharding.mesh.shape[axis] for axis in BATCH_AXES)
    places = sharding.addressable_devices_indices_map((parts,)).values()
    held = len({place[0].indices(parts) for place in places})

    def place(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * parts // held, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return {name: place(rows) for name, rows in batch.items()}


def held_bytes(shapes, shardings) -> int:
    """Bytes of a tree that each device holds."""
    both = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(s.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize for x, s in both)


def sharded_share(shapes, shardings) -> float:
    """Share of the bytes of a tree that each device does not hold."""
    whole = jax.tree.map(lambda s: replicated(s.mesh), shardings)
    return 1 - held_bytes(shapes, shardings) / held_bytes(shapes, whole)
