"""Accuracy of checkpoints on a packed split: each sample exactly once, over any number of ranks.

    python launch/evaluate.py --checkpoint runs/demo --data data/motion/packed/val
    python launch/evaluate.py --checkpoint runs/demo/best runs/demo/last --data data/motion/packed/val --out compared
    deepspeed --num_gpus 8 launch/evaluate.py --checkpoint runs/k400_8f --data shards/k400/val --clips 10 --crops 3
    python launch/evaluate.py --checkpoint runs/k400_8f --data shards/k400/test --submission kinetics

Writes evaluation.json, classes.csv (accuracy of each class, the worst first; classes-LEVEL.csv on coarser levels of
labels), scores.parquet (keys, predictions and scores; several such files make an ensemble: launch/ensemble.py),
confusion.png and reliability.png; of several checkpoints a folder of these for each, and comparison.json and .csv.
Where videos have several labels it is mAP, classes.csv has the average precision of each class, and the picture is
average_precision.png. With --submission, which takes splits without labels too, scores.parquet and the predictions in
the form of a benchmark.
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

_MOST_BINS = 10_000


def main(arguments: list[str] | None = None) -> None:
    with errors_once():
        adopt_launcher()
        options = _parser().parse_args(arguments)
        for name in ("batch_size", "calibration_bins"):
            if options[name] < 1:
                raise UserError(f"--{name.replace('_', '-')} {options[name]}: use 1 or more")
        if options.calibration_bins > _MOST_BINS:
            raise UserError(f"--calibration-bins {options.calibration_bins}: use 1 to {_MOST_BINS}")
        supervision = check_supervision(options.submission, options.sls or ())
        if options.submission and options.tell_levels:
            raise UserError("--tell-levels: predictions for a benchmark are made without labels; leave it out")
        if options.submission and len(options.checkpoint) > 1:
            raise UserError(f"--submission: predictions of one checkpoint, not of {len(options.checkpoint)}; name one")
        # torch, once the options are known to be right
        from launch.inference.class_mapping import read_renamed_classes
        from launch.inference.multilabel_results import is_multilabel
        from launch.inference.results import EvaluationOptions, evaluate_checkpoints
        from launch.visualization.pictures import confusion, precision, reliability

        views = {"test_clips": options.clips, "test_crops": options.crops, "decoder": options.decoder}
        given = {"crop_size": options.crop_size, "short_side": options.short_side}
        views |= {name: value for name, value in given.items() if value is not None}
        if options.submission:
            from launch.inference.submission import write_submission

            how = options.batch_size, options.submission, supervision
            write_submission(options.checkpoint[0], options.data, views, options.out, *how)
            return
        how = EvaluationOptions(
            views=views,
            batch_size=options.batch_size,
            tell_levels=options.tell_levels,
            exclude_unknown_classes=options.exclude_unknown_classes,
            only_shared_classes=options.only_shared_classes,
            renamed_classes=read_renamed_classes(options.rename_classes) if options.rename_classes else {},
            calibration_bins=options.calibration_bins,
        )
        for written in evaluate_checkpoints(options.checkpoint, options.data, how, options.out):
            for draw in (precision,) if is_multilabel(written) else (confusion, reliability):
                draw(written, None)


def _parser() -> CommandLine:
    parser = CommandLine(
        prog="launch/evaluate.py",
        description="Accuracy of checkpoints on a packed split.",
    )
    checkpoint_help = "Run folders (their best), RUN/best, RUN/last or checkpoints; several are compared."
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help=checkpoint_help)
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
    unknown_help = "Leave out samples whose class the network does not know; by default such a split is refused."
    parser.add_argument("--exclude-unknown-classes", action="store_true", help=unknown_help)
    shared_help = "Predict only classes that the split has; by default all of the network's compete."
    parser.add_argument("--only-shared-classes", action="store_true", help=shared_help)
    renamed_help = (
        "Text file of classes that the split calls otherwise: its name, a tab, the network's name, a line each."
    )
    parser.add_argument("--rename-classes", type=Path | None, default=None, help=renamed_help)
    parser.add_argument("--calibration-bins", type=int, default=15, help="Bins of the calibration error.")
    parser.add_argument("--batch-size", type=int, default=16, help="Clips per forward pass on each rank.")
    decoder_help = "Decode node: pyav, nvdec, jpeg, nvjpeg or auto."
    parser.add_argument("--decoder", type=Decoder, default="auto", help=decoder_help)
    parser.add_argument("--out", type=Path | None, default=None, help="Folder for results; default: in the checkpoint.")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # set by the launcher
    return parser


if __name__ == "__main__":
    run_command(main, "launch/evaluate.py")
