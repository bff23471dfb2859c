"""Trains a network on packed shards.

    deepspeed launch/train.py --config launch/configs/demo.yaml                # all GPUs of this machine, or its CPU
    deepspeed --num_gpus 2 launch/train.py --config launch/configs/demo.yaml   # two ranks
    deepspeed --hostfile hosts launch/train.py --config …                      # the machines listed in the file
    sbatch --nodes=2 launch/slurm.sh --config …                                # a cluster; requeues itself
    … --train.epochs=20 --optimizer.learning_rate=0.02                         # any option of launch/config.py
    … --resume                                                                 # goes on from the last checkpoint

Exit codes: 0 trained to the end; 75 asked by SIGTERM or SIGUSR1 to save and leave, go on with --resume; 2 a mistake in
what was asked for, told in one line; 1 anything else, with its reason in the log.
"""

import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from launch.assembly import check_stages, load_splits
from launch.config import Config, load_config, parse_config
from launch.engine import Ranks, barrier, check_device, deepspeed_options, expected_world_size, start_ranks, stop_ranks
from launch.liveness import Liveness
from launch.meter import Diverged
from launch.run import last_checkpoint, open_run
from launch.runlog import check_wandb, start_logging
from launch.signals import EXIT_CODE
from launch.trainer import Trainer
from launch.voices import all_or_none, one_voice
from sharding.commandline import UserError, run_command
from sharding.manifest import PackedDataset

log = logging.getLogger("launch.train")


def main(arguments: list[str] | None = None) -> int:
    with one_voice():
        config = parse_config("launch/train.py", arguments)
        check_device(config)
        if config.train.wandb:
            check_wandb()
        deepspeed_options(config, expected_world_size())
        check_stages(config)
        train_set, val_set = load_splits(config)
        ranks = start_ranks(config.train.timeout_seconds)
        with all_or_none(ranks):
            run_dir = open_run(config, train_set.manifest.classes, ranks)
        start_logging(run_dir, ranks.rank)
        return run(config, ranks, lambda: train_stages(config, ranks, train_set, val_set))


def train_stages(config: Config, ranks: Ranks, train_set: PackedDataset, val_set: PackedDataset | None) -> bool:
    """Trains one stage after the other, from that of the newest checkpoint on; returns whether all are finished."""
    last = last_checkpoint(Path(config.run_dir))
    reached = load_config(last / "config.yaml").train.epochs if last else 0  # where the stage of that checkpoint ends
    before = None
    for stage in config.split_stages():
        if stage.train.epochs >= reached:
            with closing(Trainer(stage, ranks, train_set, val_set, before)) as trainer:
                if not trainer.train():
                    return False
                before = trainer.end()
    return True


def run(config: Config, ranks: Ranks, train: Callable[[], bool]) -> int:
    """Calls `train`, which tells whether it came to its end; returns the exit code."""
    liveness = Liveness(ranks, config.train.silence_seconds)
    try:
        finished = train()
        barrier()  # from here on none waits for another
        liveness.stop()
        return 0 if finished else EXIT_CODE
    except UserError:
        raise
    except Diverged as error:  # on all ranks alike
        if ranks.is_first:
            log.error("%s; the last good checkpoint is %s", error, last_checkpoint(Path(config.run_dir)) or "none")
        return 1
    except Exception as error:
        log.exception("%s", liveness.explain(error))
        return 1
    finally:
        liveness.stop()
        stop_ranks()


if __name__ == "__main__":
    run_command(main, "launch/train.py")
