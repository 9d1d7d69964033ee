"""One program as several processes: the flags by which they find each other."""

import jax
from absl import flags

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several, found from the cluster (TPU pod, SLURM, MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if not found.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, with --coordinator.")


def join_processes() -> None:
    """Meets the other processes if the flags say so, before anything touches a device."""
    if DISTRIBUTED.value or COORDINATOR.value:
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
