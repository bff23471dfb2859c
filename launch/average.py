"""The mean of the weights of several checkpoints of a run, as a checkpoint (SWA).

    python launch/average.py --checkpoint runs/demo/checkpoints/step-* --out runs/demo_average
    python launch/evaluate.py --checkpoint runs/demo_average runs/demo/last --data data/demo/packed/val --out compared

The statistics of BatchNorm are estimated again, from batches of training clips. The result is used like any other
checkpoint: to evaluate, to predict, to export, to start from.
"""

from pathlib import Path

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    for name, least in (("batch_size", 1), ("bn_batches", 0)):
        if options[name] < least:
            raise UserError(f"--{name.replace('_', '-')} {options[name]}: use {least} or more")
    # torch, once the options are known to be right
    from launch.inference.averaging import BatchNormOptions, average_checkpoints

    batch_norm = BatchNormOptions(options.bn_batches, options.batch_size, options.data)
    average_checkpoints(options.checkpoint, options.out, batch_norm)


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/average.py", description="The mean of the weights of several checkpoints.")
    checkpoint_help = "Two or more checkpoints of one network, such as RUN/checkpoints/step-*."
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help=checkpoint_help)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the new checkpoint.")
    bn_help = "Batches of training clips to estimate BatchNorm's statistics from; 0: the mean of the checkpoints' own."
    parser.add_argument("--bn-batches", type=int, default=100, help=bn_help)
    parser.add_argument("--batch-size", type=int, default=16, help="Clips in such a batch.")
    data_help = "Folder or URL of the packed training split; default: the one they were trained on."
    parser.add_argument("--data", type=str | None, default=None, help=data_help)
    return parser


if __name__ == "__main__":
    run_command(main, "launch/average.py")
