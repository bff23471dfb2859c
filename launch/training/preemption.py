"""Signals that ask a run to save and leave: SIGTERM, and SIGUSR1, which a cluster can send before its time limit.

They are for the ranks, one of them is enough. Slurm's srun passes them on. The `deepspeed` command does not; its child,
deepspeed.launcher.launch, passes SIGTERM on, waits up to 30 seconds and then kills, and dies of SIGUSR1. So either
`kill -USR1` a process of launch/train.py, or send SIGTERM to the process group of `deepspeed`.
"""

import logging
import signal

from launch.training.distributed import Ranks, any_rank

log = logging.getLogger("launch.training.preemption")

EXIT_CODE = 75
"""Of a run that left because it was asked to: EX_TEMPFAIL of sysexits.h, "try again later" - that is, --resume. Unlike
0 it cannot be mistaken for a finished training, nor like 1 for a failed one."""


class StopRequest:
    """From its making on, the two signals no longer end this process: they are noted, and `asked` tells."""

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        # Launchers send a signal twice, to the group and to each process: the second means nothing new.
        self._signal = number

    def asked(self) -> bool:
        """Whether any rank has had such a signal: the same answer on all ranks, which must all ask."""
        asked = any_rank(self._signal is not None, self._ranks)
        if asked:
            name = signal.Signals(self._signal).name if self._signal else "a signal to another rank"
            log.info("%s: saving and leaving", name)
        return asked
