"""Run training to its end, and turn what happens on the way into an exit code."""

import logging
from collections.abc import Callable
from pathlib import Path

from launch.training.config import Config
from launch.training.distributed import Ranks, barrier
from launch.training.engine import stop_ranks
from launch.training.heartbeat import Heartbeat
from launch.training.preemption import EXIT_CODE
from launch.training.run_dir import last_checkpoint
from launch.training.step_meter import DivergedError
from sharding.errors import UserError

log = logging.getLogger("launch.train")


def run(config: Config, ranks: Ranks, train: Callable[[], bool]) -> int:
    """Calls `train`, which tells whether it came to its end; returns the exit code."""
    heartbeat = Heartbeat(ranks, config.train.heartbeat_timeout_seconds)
    try:
        finished = train()
        barrier()  # from here on none waits for another
        heartbeat.stop()
        return 0 if finished else EXIT_CODE
    except UserError:
        raise
    except DivergedError as error:  # on all ranks alike
        if ranks.is_main_process:
            log.error("%s; the last good checkpoint is %s", error, last_checkpoint(Path(config.run_dir)) or "none")
        return 1
    except Exception as error:
        log.exception("%s", heartbeat.explain(error))
        return 1
    finally:
        heartbeat.stop()
        stop_ranks()
