"""What of a machine belongs to one rank."""

import os
from collections.abc import Mapping

# torchrun sets the first of them, DeepSpeed's launcher the second.
_RANKS_OF_MACHINE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")


def cores_per_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores this process may run on, divided by the ranks of its machine; at least 1.

    A container or a batch system may allow a process fewer cores than the machine has. 16 cores and 8 ranks give 2.
    """
    return max(1, len(os.sched_getaffinity(0)) // ranks_of_machine(environment))


def ranks_of_machine(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many ranks of the job run on this machine, as its launcher says; 1 without one."""
    return max(1, int(next((environment[name] for name in _RANKS_OF_MACHINE if name in environment), "1")))
