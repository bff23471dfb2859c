"""Train a network on packed shards.

    python launch/train.py --config launch/configs/demo/demo.yaml              # one GPU of this machine, or its CPU
    deepspeed launch/train.py --config launch/configs/demo/demo.yaml           # all GPUs of this machine
    deepspeed --num_gpus 2 launch/train.py --config launch/configs/demo/demo.yaml   # two ranks
    deepspeed --hostfile hosts launch/train.py --config …                      # the machines listed in the file
    sbatch --nodes=2 launch/slurm.sh --config …                                # a cluster; requeues itself
    … --train.epochs=20 --optimizer.learning_rate=0.02                         # any key of launch/training/config.py
    … --resume                                                                 # resumes from the last checkpoint
    python launch/train.py --run_dir runs/demo --resume                        # the same, with the run's configuration

Exit codes: 0 trained to the end; 75 asked by SIGTERM, SIGUSR1 or Ctrl-C to save and leave, continue with --resume; 2 a
mistake in what was asked for, reported in one line; 1 anything else, with its reason in the log.
"""

import sys

from launch.training.config_parser import parse_config
from launch.training.launcher import errors_once
from launch.training.rank_environment import adopt_launcher
from launch.training.resume_options import with_config_of_run
from sharding.cli import run_command


def main(arguments: list[str] | None = None) -> int:
    with errors_once():
        adopt_launcher()
        config = parse_config("launch/train.py", with_config_of_run(sys.argv[1:] if arguments is None else arguments))
        from launch.training.supervise import train_run  # torch and DeepSpeed, once the options are known to be right

        return train_run(config)


if __name__ == "__main__":
    run_command(main, "launch/train.py")
