"""What of a machine belongs to one rank."""

import os
from collections.abc import Mapping

from sharding.cores import available_cores

# torchrun sets the first of them, DeepSpeed's launcher the second.
_RANKS_OF_MACHINE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")


def cores_per_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores this process may use, divided by the ranks that share them; at least 1.

    16 cores and 8 ranks give 2; so do 2 cores that the launcher has bound to each of 8 ranks.
    """
    return max(1, available_cores() // ranks_sharing_cores(environment))


def ranks_sharing_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks of this machine run on the cores of this one, if all are bound to equally many; at least 1.

    `srun`, `mpirun` and `deepspeed --bind_cores_to_rank` bind a rank to cores of its own, or to a processor that some
    share; others let all run on all.
    """
    allowed, total = len(os.sched_getaffinity(0)), _cores_of_job(environment)
    return max(1, round(ranks_of_machine(environment) * min(1, allowed / total)))


def _cores_of_job(environment: Mapping[str, str]) -> int:
    """Return the cores of all ranks of this machine together, as Slurm says, else those of the launcher."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if tasks is not None and tasks == environment.get("WORLD_SIZE") and "SLURM_CPUS_ON_NODE" in environment:
        return int(environment["SLURM_CPUS_ON_NODE"])  # each task of srun is a rank
    try:
        return len(os.sched_getaffinity(os.getppid()))
    except OSError:  # it is gone
        return 1


def ranks_of_machine(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks of the job run on this machine, as its launcher says; 1 without one."""
    return max(1, int(next((environment[name] for name in _RANKS_OF_MACHINE if name in environment), "1")))
