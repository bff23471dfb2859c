from launch.studies.real.run import main
from sharding.cli import run_command

run_command(main, "python -m launch.studies.real")
