"""Signs of life between ranks: a rank that dies or fails ends the job with its reason, instead of leaving the others
to wait for it.

Every rank writes a growing number into the store of the process group, and who it is. The first rank watches the
numbers of all, the others that of the first, as well as the one verdict: what went wrong, and where. A rank that learns
a verdict while it waits in a collective operation, where no message can reach it, is ended from a thread.
"""

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # documented, not in __all__

from launch.training.distributed import Ranks
from sharding.errors import UserError

log = logging.getLogger("launch.training.heartbeat")

_VERDICT = "heartbeat/verdict"


class Heartbeat:
    """Begun by its making, on all ranks; without effect where there is only one.

    Args:
        heartbeat_timeout_seconds: how long a rank may give no sign of life before it is taken for dead.
    """

    def __init__(self, ranks: Ranks, heartbeat_timeout_seconds: float):
        self._ranks, self._limit = ranks, heartbeat_timeout_seconds
        self._interval = min(5.0, heartbeat_timeout_seconds / 6)
        self._stopping = threading.Event()
        self._known = threading.Event()
        self._verdict = ""
        self._failed = False
        if ranks.world_size > 1:
            # Its own connection: the process group's may be held for long by a wait for other ranks.
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            timeout = timedelta(seconds=heartbeat_timeout_seconds)
            self._store = TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
            self._sign(0)
            self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send no more signs of life from here on, and heed no others'."""
        self._stopping.set()

    def explain(self, error: BaseException) -> str:
        """Return what ended the job, on a rank in which `error` was raised: that, or if that only says that another
        rank does not answer, what happened to the other."""
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        own = f"rank {self._ranks.rank}: {kind}{' '.join(str(error).split())}"
        if self._ranks.world_size == 1:
            return own
        self._failed = True
        if _is_of_others(error):
            self._known.wait(2 * self._limit + 4 * self._interval)  # the other ranks are busy, too
        elif not self._known.is_set():
            self._tell(own)
            if self._ranks.is_main_process:
                time.sleep(2 * self._interval)  # the store ends with this process; let the others read it
        return self._verdict or own

    def _sign(self, beats: int) -> None:
        rank = self._ranks.rank
        self._store.set(_beat_key(rank), f"{beats} rank {rank} on {socket.gethostname()}, process {os.getpid()}")

    def _watch(self) -> None:
        """Watch, in the thread, until `stop`, or until a verdict is known."""
        keys = [_beat_key(rank) for rank in range(self._ranks.world_size if self._ranks.is_main_process else 1)]
        beats, heard = 0, {}
        while not self._stopping.wait(self._interval):
            beats += 1
            try:
                self._sign(beats)
                if self._store.check([_VERDICT]):
                    return self._learn(self._store.get(_VERDICT).decode())
                values = self._store.multi_get(keys) if self._store.check(keys) else []
            except (RuntimeError, OSError):
                return self._learn("rank 0 has died: its store does not answer")
            now = time.monotonic()
            for key, value in zip(keys, values):
                if key not in heard or heard[key][0] != value:
                    heard[key] = value, now
            for value, since in heard.values():
                if now - since > self._limit:
                    name = value.decode().split(" ", 1)[1]
                    self._tell(f"{name}, has died: no sign of life for {self._limit:g} seconds")
                    return self._learn(self._verdict)
        return None

    def _tell(self, verdict: str) -> None:
        """Make `verdict` the one that all ranks learn, unless there is one."""
        self._verdict = verdict
        with suppress(RuntimeError, OSError):  # the store is gone with its rank, and that is what the others learn
            self._verdict = self._store.compare_set(_VERDICT, "", verdict).decode()

    def _learn(self, verdict: str) -> None:
        self._verdict = verdict
        self._known.set()
        # The main thread may be about to find out by itself, from a broken connection, and then ends in good order; or
        # it has just come to the end of the training, as the rank that is gone.
        self._stopping.wait(2 * self._interval)
        if not self._failed and not self._stopping.is_set():
            _exit(verdict)


def _beat_key(rank: int) -> str:
    return f"heartbeat/{rank}"


def _is_of_others(error: BaseException) -> bool:
    """Return whether this is how a collective operation fails when another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _exit(verdict: str) -> None:
    log.error("%s", verdict)
    logging.shutdown()
    os._exit(1)
