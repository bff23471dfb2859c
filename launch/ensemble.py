"""Accuracy of several networks together: the mean of their scores.

    python launch/ensemble.py runs/a/…/scores.parquet runs/b/…/scores.parquet

The files are what launch/evaluate.py wrote for the same packed split.
"""

from pathlib import Path

from launch.inference.scores import mean_scores, read_scores, write_scores
from sharding.cli import CommandLine, run_command
from sharding.errors import UserError
from sharding.files import check_writable


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="launch/ensemble.py", description="Accuracy of the mean of several score files.")
    parser.add_argument("scores", type=Path, nargs="+", help="scores.parquet of two or more evaluations.")
    parser.add_argument("--out", type=Path | None, default=None, help="Where to write the mean scores.")
    options = parser.parse_args(arguments)
    if len(options.scores) < 2:
        raise UserError("an ensemble takes two score files or more")
    if options.out:
        check_writable(options.out)
    together = mean_scores(options.scores)
    for path in options.scores:
        alone = read_scores(path)
        print(f"{path}: top-1 {alone.top(1):.2%}, top-5 {alone.top(5):.2%}")
    print(
        f"together: top-1 {together.top(1):.2%}, top-5 {together.top(5):.2%} of {len(together.keys)} samples, "
        f"data {together.fingerprint[:16]}"
    )
    if options.out:
        write_scores(options.out, together)


if __name__ == "__main__":
    run_command(main, "launch/ensemble.py")
