"""Trains a network on packed shards.

    deepspeed launch/train.py --config launch/configs/demo.yaml                # all GPUs of this machine, or its CPU
    deepspeed --num_gpus 2 launch/train.py --config launch/configs/demo.yaml   # two ranks
    deepspeed --hostfile hosts launch/train.py --config …                      # the machines listed in the file
    sbatch --nodes=2 launch/slurm.sh --config …                                # a cluster; requeues itself
    … --train.epochs=20 --optimizer.learning_rate=0.02                         # any option of launch/training/config.py
    … --resume                                                                 # resumes from the last checkpoint
    python launch/train.py --run_dir runs/demo --resume                        # the same, with the run's configuration

Exit codes: 0 trained to the end; 75 asked by SIGTERM, SIGUSR1 or Ctrl-C to save and leave, continue with --resume; 2 a
mistake in what was asked for, reported in one line; 1 anything else, with its reason in the log.
"""

import logging
import sys
from contextlib import closing
from pathlib import Path

from launch.training.builders import check_phases, load_splits
from launch.training.config import Config, load_config, parse_config
from launch.training.distributed import Ranks, errors_on_all_ranks, errors_once, expected_world_size
from launch.training.engine import check_device, deepspeed_options, start_ranks
from launch.training.preemption import follow_launcher
from launch.training.rank_environment import adopt_launcher
from launch.training.resume_options import with_config_of_run
from launch.training.run_dir import last_checkpoint, locked, open_run
from launch.training.run_log import check_wandb, start_logging
from launch.training.supervise import run
from launch.training.trainer import Trainer
from sharding.cli import run_command
from sharding.dataset import PackedDataset

log = logging.getLogger("launch.train")


def main(arguments: list[str] | None = None) -> int:
    with errors_once():
        adopt_launcher()
        follow_launcher()
        config = parse_config("launch/train.py", with_config_of_run(sys.argv[1:] if arguments is None else arguments))
        check_device(config)
        if config.train.wandb:
            check_wandb()
        deepspeed_options(config, expected_world_size())
        check_phases(config)
        train_set, val_set = load_splits(config)
        ranks = start_ranks(config.train.timeout_seconds)
        run_dir = Path(config.run_dir)
        with locked(run_dir, ranks):
            with errors_on_all_ranks(ranks):
                open_run(config, train_set.manifest.classes, ranks)
            start_logging(run_dir, ranks.rank)
            return run(config, ranks, lambda: train_phases(config, ranks, train_set, val_set))


def train_phases(config: Config, ranks: Ranks, train_set: PackedDataset, val_set: PackedDataset | None) -> bool:
    """Trains one phase after the other, from that of the newest checkpoint on; returns whether all are finished."""
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


if __name__ == "__main__":
    run_command(main, "launch/train.py")
