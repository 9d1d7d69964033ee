"""One program as several processes: the flags by which they find each other."""

import jax
from absl import flags

from data_tools.errors import InputError, kind_errors

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several, found from the cluster (TPU pod, SLURM, MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if not found.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, with --coordinator.")


def join_processes() -> None:
    """Meets the other processes if the flags say so, before anything touches a device.

    Flags that make no sense, and a cluster that cannot be found, end the program with a sentence.
    """
    if not (DISTRIBUTED.value or COORDINATOR.value):
        return
    with kind_errors():
        try:
            jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        except (ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"The other processes cannot be found ({reason}): start on a TPU pod, with srun or "
                "with mpirun, or give --coordinator, --num_processes and --process_id."
            ) from error
