"""How many CPU cores belong to one rank."""

import os
from collections.abc import Mapping

# torchrun sets the first of them, DeepSpeed's launcher the second.
_RANKS_OF_MACHINE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")


def cores_per_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores this process may run on, divided by the ranks of its machine; at least 1.

    A container or a batch system may allow a process fewer cores than the machine has. 16 cores and 8 ranks give 2.
    """
    allowed = len(os.sched_getaffinity(0))
    ranks = next((environment[name] for name in _RANKS_OF_MACHINE if name in environment), "1")
    return max(1, allowed // max(1, int(ranks)))
