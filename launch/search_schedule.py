"""Find in which order, and for how many epochs each, to train with which clips and learning rates.

deepspeed launch/search_schedule.py --config launch/configs/plans/motion.yaml   # all GPUs, or the CPU
… --plan.patience_epochs=5                                  # any option of launch/train.py, and plan's
… --resume                                                  # continues where it stopped
"""

from launch.schedule_search.config import PlannedConfig
from launch.training.config_parser import parse_config
from launch.training.launcher import errors_once
from launch.training.rank_environment import adopt_launcher
from sharding.cli import run_command


def main(arguments: list[str] | None = None) -> int:
    with errors_once():
        adopt_launcher()
        description = "Find in which order, and for how many epochs each, to train with which clips and learning rates."
        config = parse_config("launch/search_schedule.py", arguments, PlannedConfig, description)
        from launch.schedule_search.search import find_schedule  # torch, once the options are known to be right

        return find_schedule(config)


if __name__ == "__main__":
    run_command(main, "launch/search_schedule.py")
