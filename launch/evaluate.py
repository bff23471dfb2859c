"""Accuracy of a checkpoint on a packed split: each sample exactly once, over any number of ranks.

    python launch/evaluate.py --checkpoint runs/demo --data data/motion/packed/val
    deepspeed --num_gpus 8 launch/evaluate.py --checkpoint runs/k400_8f --data shards/k400/val --clips 10 --crops 3
    python launch/evaluate.py --checkpoint runs/k400_8f --data shards/k400/test --submission kinetics

Writes evaluation.json, classes.csv (accuracy of each class; classes-LEVEL.csv on coarser levels of labels),
scores.parquet (keys, predictions and scores; several such files make an ensemble: launch/ensemble.py) and
confusion.png. Where videos have several labels it is mAP, classes.csv has the average precision of each class, and the
picture is average_precision.png. With --submission, which takes splits without labels too, scores.parquet and the
predictions in the form of a benchmark.
"""

import argparse
from pathlib import Path
from typing import Literal

from launch.inference.submission_forms import FORMS, check_supervision
from launch.training.launcher import errors_once
from launch.training.rank_environment import adopt_launcher
from pipeline.config import Decoder
from sharding.cli import CommandLine, run_command
from sharding.errors import UserError

_NAMES = ", ".join(sorted(FORMS))


def main(arguments: list[str] | None = None) -> None:
    with errors_once():
        adopt_launcher()
        options = _parser().parse_args(arguments)
        if options.batch_size < 1:
            raise UserError(f"--batch-size {options.batch_size}: use 1 or more")
        supervision = check_supervision(options.submission, options.sls or ())
        if options.submission and options.tell_levels:
            raise UserError("--tell-levels: predictions for a benchmark are made without labels; leave it out")
        # torch, once the options are known to be right
        from launch.inference.results import evaluate_checkpoint, is_multilabel
        from launch.visualization.pictures import confusion, precision

        views = {"test_clips": options.clips, "test_crops": options.crops, "decoder": options.decoder}
        given = {"crop_size": options.crop_size, "short_side": options.short_side}
        views |= {name: value for name, value in given.items() if value is not None}
        if options.submission:
            from launch.inference.submission import write_submission

            how = options.batch_size, options.submission, supervision
            write_submission(options.checkpoint, options.data, views, options.out, *how)
            return
        written = evaluate_checkpoint(
            options.checkpoint, options.data, views, options.out, options.batch_size, options.tell_levels
        )
        if written:
            draw = precision if is_multilabel(written) else confusion
            draw(written, None)


def _parser() -> CommandLine:
    parser = CommandLine(
        prog="launch/evaluate.py",
        description="Accuracy of a checkpoint on a packed split.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--data", required=True, help="Folder or URL of the packed split, with manifest.json.")
    parser.add_argument("--clips", type=int, default=1, help="Clips of each video, evenly shifted in time.")
    parser.add_argument("--crops", type=Literal[1, 3, 10], default=1, help="Crops of each clip: 1, 3 or 10.")
    parser.add_argument("--crop-size", type=int | None, default=None, help="Side of a crop; default: as in training.")
    parser.add_argument("--short-side", type=int | None, default=None, help="Short side; default: as in training.")
    parser.add_argument(
        "--tell-levels",
        action="store_true",
        help="Give a cross encoder the true coarser label; by default it reads the one that it predicts.",
    )
    submission_help = f"Write predictions in a form instead of accuracies, of splits without labels too: {_NAMES}."
    form = {"choices": sorted(FORMS), "metavar": "FORM"}
    parser.add_argument("--submission", default=None, help=submission_help, **form)
    sls_help = "Supervision that a submission to EPIC-Kitchens declares: of pre-training, labels and data, 0 to 5 each."
    parser.add_argument("--sls", type=int, nargs=3, metavar=("PT", "TL", "TD"), default=None, help=sls_help)
    parser.add_argument("--batch-size", type=int, default=16, help="Clips per forward pass on each rank.")
    parser.add_argument("--decoder", type=Decoder, default="auto", help="Decode node: pyav, nvdec, jpeg or auto.")
    parser.add_argument("--out", type=Path | None, default=None, help="Folder for results; default: in the checkpoint.")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # set by the launcher
    return parser


if __name__ == "__main__":
    run_command(main, "launch/evaluate.py")
