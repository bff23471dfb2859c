"""Accuracy of several networks together: the mean of their scores.

    python launch/ensemble.py runs/a/…/scores.parquet runs/b/…/scores.parquet

The files are what launch/evaluate.py wrote for the same packed split.
"""

from pathlib import Path

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="launch/ensemble.py", description="Accuracy of the mean of several score files.")
    parser.add_argument("scores", type=Path, nargs="+", help="scores.parquet of two or more evaluations.")
    parser.add_argument("--out", type=Path | None, default=None, help="Where to write the mean scores.")
    options = parser.parse_args(arguments)
    if len(options.scores) < 2:
        raise UserError("an ensemble takes two score files or more")
    # pyarrow, once the options are known to be right
    from launch.inference.scores import describe_accuracy, mean_scores, read_scores, write_scores
    from sharding.files import check_writable

    if options.out:
        check_writable(options.out)
    together = mean_scores(options.scores)
    for path in options.scores:
        print(f"{path}: {describe_accuracy(read_scores(path))}")
    print(f"together: {describe_accuracy(together)} of {len(together.keys)} samples, data {together.fingerprint[:16]}")
    if options.out:
        write_scores(options.out, together)


if __name__ == "__main__":
    run_command(main, "launch/ensemble.py")
