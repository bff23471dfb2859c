"""Find in which order, and for how many epochs each, to train with which clips and learning rates.

deepspeed launch/search_schedule.py --config launch/configs/plans/motion.yaml   # all GPUs, or the CPU
… --plan.patience_epochs=5                                  # any option of launch/train.py, and plan's
… --resume                                                  # continues where it stopped
"""

from launch.schedule_search.search import main
from sharding.cli import run_command

if __name__ == "__main__":
    run_command(main, "launch/search_schedule.py")
