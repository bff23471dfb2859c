"""A run of training from its configuration to its exit code."""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from launch.training.builders import check_phases, load_splits, warn_of_short_videos
from launch.training.config import Config
from launch.training.config_parser import load_config
from launch.training.devices import check_device, unusable_gpu
from launch.training.distributed import Ranks, barrier, errors_on_all_ranks
from launch.training.engine import deepspeed_options, joined_ranks
from launch.training.heartbeat import Heartbeat
from launch.training.launcher import ErrorOfAllRanks, expected_world_size
from launch.training.preemption import EXIT_CODE, follow_launcher
from launch.training.run_dir import last_checkpoint, locked, open_run
from launch.training.run_log import check_wandb, start_logging
from launch.training.step_meter import DivergedError
from launch.training.trainer import Trainer
from pipeline.reading import SampleError
from sharding.dataset import PackedDataset
from sharding.errors import UserError

log = logging.getLogger("launch.train")


def train_run(config: Config) -> int:
    """Check all that can be checked first, then train; return the exit code."""
    train_set, val_set = check_run(config, config)
    with joined_ranks(config.train.timeout_seconds) as ranks, locked(Path(config.run_dir), ranks):
        with errors_on_all_ranks(ranks):
            open_run(config, train_set.manifest.classes, ranks)
        begin_logging(config, ranks, train_set)
        return run(config, ranks, lambda: train_phases(config, ranks, train_set, val_set))


def check_run(config: Config, schedule: Config) -> tuple[PackedDataset, PackedDataset | None]:
    """Check all that can be checked before the ranks meet; return the splits for training and validation.

    Args:
        schedule: `config` with all phases that may be trained.

    Raises:
        UserError: something cannot be trained so.
    """
    check_device(config)
    if config.train.wandb:
        check_wandb()
    for phase in schedule.split_phases():
        deepspeed_options(phase, expected_world_size())
    check_phases(schedule)
    splits = load_splits(config)
    follow_launcher()
    return splits


def begin_logging(config: Config, ranks: Ranks, train_set: PackedDataset) -> None:
    """Log into the run's folder from here on; warn of what may not be meant."""
    start_logging(Path(config.run_dir), ranks.rank)
    if warning := unusable_gpu():
        log.warning(warning)
    warn_of_short_videos(config, train_set)


def train_phases(config: Config, ranks: Ranks, train_set: PackedDataset, val_set: PackedDataset | None) -> bool:
    """Train one phase after the other, from that of the newest checkpoint on; return whether all are finished."""
    last = last_checkpoint(Path(config.run_dir))
    reached = load_config(last / "config.yaml").train.epochs if last else 0  # where the phase of that checkpoint ends
    before = None
    for phase in config.split_phases():
        if phase.train.epochs >= reached:
            with closing(Trainer(phase, ranks, train_set, val_set, before)) as trainer:
                if not trainer.train():
                    return False
                before = trainer.end()
    return True


def run(config: Config, ranks: Ranks, train: Callable[[], bool]) -> int:
    """Call `train`, which returns whether it came to its end; return the exit code."""
    heartbeat = Heartbeat(ranks, config.train.heartbeat_timeout_seconds)
    try:
        finished = train()
        barrier()  # from here on none waits for another
        heartbeat.stop()
        return 0 if finished else EXIT_CODE
    except SampleError as error:
        log.error("%s", heartbeat.explain(error))
        return error.exit_code
    except UserError as error:
        if isinstance(error, ErrorOfAllRanks) or ranks.world_size == 1:
            raise
        log.error("%s", heartbeat.explain(error))
        return error.exit_code
    except DivergedError as error:  # on all ranks alike
        if ranks.is_main_process:
            log.error("%s; the last good checkpoint is %s", error, last_checkpoint(Path(config.run_dir)) or "none")
        return 1
    except Exception as error:
        log.exception("%s", heartbeat.explain(error))
        return 1
    finally:
        heartbeat.stop()
