"""Signals that ask a run to save and leave: SIGTERM, SIGUSR1, which a cluster can send before its time limit, Ctrl-C.

They are for the ranks, one of them is enough. Slurm's srun passes them on. The `deepspeed` command does not; its child,
deepspeed.launcher.launch, passes SIGTERM on, waits up to 30 seconds and then kills, and dies of SIGUSR1. So either
`kill -USR1` a process of launch/train.py, or send SIGTERM to the process group of `deepspeed`.
"""

import ctypes
import logging
import os
import signal
import time
from pathlib import Path

from launch.training.distributed import Ranks, any_rank

log = logging.getLogger("launch.training.preemption")

EXIT_CODE = 75
"""Exit code of a run that left because it was asked to: EX_TEMPFAIL of sysexits.h, "try again later" - that is,
--resume. Unlike 0 it cannot be mistaken for a finished training, nor like 1 for a failed one."""


# Launchers pass a signal on to their processes, which may have had it already: within this time it is the same one.
_SAME_SIGNAL_SECONDS = 2.0


class StopRequest:
    """From its making on, the signals no longer end this process: they are noted, and `asked` reports them. A second
    Ctrl-C, a while after the first, ends it at once."""

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self._signal: int | None = None
        self._since = 0.0
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        if self._signal is None:
            self._signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > _SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    def asked(self) -> bool:
        """Return whether any rank has had such a signal: the same answer on all ranks, which must all ask."""
        asked = any_rank(self._signal is not None, self._ranks)
        if asked:
            name = signal.Signals(self._signal).name if self._signal else "a signal to another rank"
            log.info("%s: saving and leaving", name)
        return asked


_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SHELLS = {
    "bash",
    "sh",
    "dash",
    "zsh",
    "fish",
    "ksh",
    "tcsh",
    "csh",
    "tmux",
    "screen",
    "SCREEN",
    "sshd",
    "init",
    "systemd",
}


def follow_launcher() -> None:
    """Let the system send this process SIGTERM when the launcher that started it as a rank has died. Only on Linux.

    A shell is no launcher: what it started may outlive it.
    """
    if "RANK" not in os.environ:
        return
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip().split(":")[0]
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return
    if parent > 1 and name not in _SHELLS:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died just before
            os.kill(os.getpid(), signal.SIGTERM)
