from launch.studies.ablation.run import main
from sharding.cli import run_command

run_command(main, "python -m launch.studies.ablation")
