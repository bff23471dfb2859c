"""Learning rates that carry over depths: measured on shallow networks, predicted for deep ones (AM-muP).

python launch/lr_transfer.py --out runs/lr_transfer.png             # and runs/lr_transfer.json with it
python launch/lr_transfer.py --out runs/bn.png --task.batch_norm true   # any option of --help
python launch/lr_transfer.py --out runs/r.png --task.network resnet --depths [18] --held_out [34] --predict [101]
"""

from launch.studies.lr_transfer.study import main
from sharding.cli import run_command

if __name__ == "__main__":
    run_command(main, "launch/lr_transfer.py")
